//! Which pictures of a data set are for what: splits, classes and roles.

use std::collections::{BTreeMap, HashMap};

use barlow_core::data::Labels;
use barlow_core::evaluate::{Role, roles};
use barlow_formats::{Catalog, Split};

/// The pictures of a data set by their use, as indices in its catalog.
pub struct Parts {
    /// Training pictures.
    pub train: Vec<usize>,
    /// Training pictures without a class.
    pub unlabelled: Vec<usize>,
    /// Test pictures; empty if there are no classes.
    pub test: Vec<usize>,
    /// Which parts these are and how many classes there are, for display; starts with a comma if it is not empty.
    pub note: String,
}

impl Parts {
    /// The parts of `catalog`. One part is the test part; the note names the parts that are left out.
    pub fn of(catalog: &Catalog) -> Self {
        let of = |part| -> Vec<usize> { catalog.part(part).collect() };
        let (mut train, unlabelled) = (of(Split::Train), of(Split::Unlabelled));
        let test_part = catalog.test_part();
        let mut test = test_part.map(of).unwrap_or_default();
        let labelled = !catalog.classes.is_empty();
        let mut note = String::new();
        if train.is_empty() && unlabelled.is_empty() {
            // A test part alone is used for training.
            std::mem::swap(&mut train, &mut test);
        }
        for part in [Split::Test, Split::Validation] {
            let count = catalog.part(part).count();
            if count == 0 {
                continue;
            }
            note += &match Some(part) == test_part {
                true if test.is_empty() => format!(", those of {part}/"),
                true if labelled => format!(", {count} of {part}/ to test on"),
                true => format!(", {count} of {part}/ left out, as there are no classes"),
                false => format!(", {count} of {part}/ left out"),
            };
        }
        if labelled {
            note += &format!(", {} classes", catalog.classes.len());
        } else {
            test.clear();
        }
        Self {
            train,
            unlabelled,
            test,
            note,
        }
    }
}

/// The number of pictures, and of each part, for display: "80 pictures (60 of train/, 20 of test/)".
pub fn counted_parts(catalog: &Catalog, members: &[usize]) -> String {
    let mut parts = BTreeMap::<Split, usize>::new();
    for member in members {
        *parts.entry(catalog.items[*member].part).or_default() += 1;
    }
    if parts.keys().eq([&Split::Train]) {
        return format!("{} pictures", members.len());
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(part, count)| format!("{count} of {part}/"))
        .collect();
    format!("{} pictures ({})", members.len(), parts.join(", "))
}

/// The classes of the pictures at `members`, if all have one.
pub fn labels_of(catalog: &Catalog, members: &[usize]) -> Option<Labels> {
    let classes = members.iter().map(|member| catalog.items[*member].class);
    let class_of = classes.collect::<Option<Vec<usize>>>()?;
    (!catalog.classes.is_empty()).then(|| Labels {
        names: catalog.classes.clone(),
        class_of,
    })
}

/// The role of each training picture with a class, by its index in the catalog. The roles depend on the whole set, so
/// that a picture keeps its role whichever of the others are read.
pub fn roles_of(members: &[usize], has_test_part: bool) -> HashMap<usize, Role> {
    let roles = roles(members.len(), has_test_part);
    members.iter().copied().zip(roles).collect()
}
