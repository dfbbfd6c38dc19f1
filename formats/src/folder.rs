//! Pictures in folders: as ImageNet's (`train/CLASS/x.jpg`, `val/CLASS/y.jpg`), class folders alone, or any folders.

use std::collections::BTreeMap;
use std::path::Path;

use walkdir::WalkDir;

use crate::catalog::{Catalog, Encoding, Entry, Item, Problem, Split};
use crate::location::Location;

/// All files below `root`, sorted by name.
pub(crate) fn walk(root: &Path, left_out: &mut Vec<String>) -> Result<Vec<Entry>, Problem> {
    let mut entries = Vec::new();
    for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            // The root itself cannot be read.
            Err(error) if error.depth() == 0 => return Err(Problem::new(error.to_string())),
            Err(error) => {
                left_out.push(error.to_string());
                continue;
            }
        };
        if !entry.file_type().is_file() {
            continue;
        }
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let names: Vec<_> = below
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect();
        entries.push(Entry {
            name: names.join("/"),
            location: Location::File(entry.into_path()),
        });
    }
    Ok(entries)
}

/// Builds the catalog of the pictures among `entries`; it has classes if every training picture has one.
pub(crate) fn pictures(
    entries: Vec<Entry>,
    is_picture: impl Fn(&Path) -> bool,
    place: &'static str,
) -> Result<Catalog, Problem> {
    let mut others = BTreeMap::<String, usize>::new();
    let mut found = Vec::new();
    for entry in entries {
        if is_picture(Path::new(entry.file_name())) {
            found.push(entry);
        } else {
            let ending = Path::new(entry.file_name()).extension();
            let ending = ending.map_or("unknown type".into(), |e| {
                e.to_string_lossy().to_lowercase()
            });
            *others.entry(ending).or_default() += 1;
        }
    }
    let others: Vec<String> = others
        .into_iter()
        .map(|(kind, count)| format!("{count} of {kind}"))
        .collect();
    if found.is_empty() {
        let others = if others.is_empty() {
            String::new()
        } else {
            format!(" (files: {})", others.join(", "))
        };
        return Err(Problem::new(format!(
            "there are no pictures in it{others}: name a folder or an archive that contains JPEG, PNG, WebP or other \
             pictures, at any depth"
        )));
    }
    let mut left_out = Vec::new();
    if !others.is_empty() {
        left_out.push(format!(
            "files that are not pictures: {}",
            others.join(", ")
        ));
    }

    // An archive or a copied folder often has one top-level folder that contains everything.
    let around = common_folder(&found);
    let places: Vec<Place> = found
        .iter()
        .map(|e| class_and_split_of(&e.name[around..]))
        .collect();
    let mut classes: Vec<String> = places.iter().filter_map(|p| p.class.clone()).collect();
    classes.sort();
    classes.dedup();
    // The training pictures decide whether there are classes; a test split may have none, as ImageNet's.
    let of = |part: Split| places.iter().filter(move |place| place.part == part);
    let known = |part: Split| of(part).all(|place| place.class.is_some());
    let labelled = classes.len() > 1
        && known(Split::Train)
        && (of(Split::Train).next().is_some()
            || [Split::Test, Split::Validation]
                .into_iter()
                .any(|part| of(part).next().is_some() && known(part)));
    if !labelled {
        classes.clear();
    }
    let items = found.into_iter().zip(places).map(|(entry, place)| Item {
        class: place
            .class
            .and_then(|class| classes.binary_search(&class).ok()),
        part: place.part,
        name: entry.name,
        location: entry.location,
        encoding: Encoding::File,
    });
    Ok(Catalog {
        format: match (place, labelled) {
            ("a folder", true) => "a folder of class folders",
            ("a folder", false) => "a folder of pictures",
            (_, true) => "a tar archive of class folders",
            (_, false) => "a tar archive of pictures",
        },
        items: items.collect(),
        classes,
        left_out,
    })
}

/// The length of the name, with its slash, of a top-level folder around all entries that is neither a class nor a
/// split; 0 if there is none.
fn common_folder(entries: &[Entry]) -> usize {
    let Some((first, _)) = entries.first().and_then(|e| e.name.split_once('/')) else {
        return 0;
    };
    let split = part_of(first).is_some();
    let shared = entries.iter().all(|entry| {
        let below = entry
            .name
            .strip_prefix(first)
            .and_then(|n| n.strip_prefix('/'));
        // If a picture lies directly in it, the folder may be its class.
        below.is_some_and(|below| below.contains('/'))
    });
    if shared && !split { first.len() + 1 } else { 0 }
}

/// The split that a folder's name stands for, if any.
fn part_of(folder: &str) -> Option<Split> {
    match folder.to_lowercase().as_str() {
        "test" => Some(Split::Test),
        "val" | "valid" | "validation" => Some(Split::Validation),
        "train" | "training" => Some(Split::Train),
        "unlabeled" | "unlabelled" => Some(Split::Unlabelled),
        _ => None,
    }
}

/// The class and the split of a picture, from its path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The first folder of its path, below the root or below a split's folder such as `train/`.
    class: Option<String>,
    part: Split,
}

fn class_and_split_of(name: &str) -> Place {
    let mut folders: Vec<&str> = name.split('/').collect();
    folders.pop();
    let part = folders.first().and_then(|first| part_of(first));
    if part.is_some() {
        folders.remove(0);
    }
    Place {
        class: folders
            .first()
            .filter(|_| part != Some(Split::Unlabelled))
            .map(|class| (*class).to_owned()),
        part: part.unwrap_or(Split::Train),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_class_and_part() {
        let expected = |class: Option<&str>, part| Place {
            class: class.map(str::to_owned),
            part,
        };
        assert_eq!(class_and_split_of("a.png"), expected(None, Split::Train));
        assert_eq!(
            class_and_split_of("cats/a.png"),
            expected(Some("cats"), Split::Train)
        );
        assert_eq!(
            class_and_split_of("cats/tabby/a.png"),
            expected(Some("cats"), Split::Train)
        );
        assert_eq!(
            class_and_split_of("train/cats/a.png"),
            expected(Some("cats"), Split::Train)
        );
        assert_eq!(
            class_and_split_of("Test/cats/a.png"),
            expected(Some("cats"), Split::Test)
        );
        assert_eq!(
            class_and_split_of("train/a.png"),
            expected(None, Split::Train)
        );
        assert_eq!(
            class_and_split_of("unlabeled/a.png"),
            expected(None, Split::Unlabelled)
        );
    }

    #[test]
    fn a_common_top_level_folder_is_not_a_class() {
        let entries = |names: &[&str]| -> Vec<Entry> {
            let entry = |name: &&str| Entry {
                name: (*name).to_owned(),
                location: Location::memory(Vec::new()),
            };
            names.iter().map(entry).collect()
        };
        let open = |names: &[&str]| pictures(entries(names), |_| true, "a folder").unwrap();
        let set = open(&[
            "cifar/train/cat/1.png",
            "cifar/train/dog/1.png",
            "cifar/test/cat/2.png",
        ]);
        assert_eq!(set.classes, ["cat", "dog"]);
        assert_eq!(set.part(Split::Test).collect::<Vec<_>>(), [2]);
        assert_eq!(
            open(&["a/cat/1.png", "a/dog/1.png"]).classes,
            ["cat", "dog"]
        );
        // One split is used for evaluation: `test/`, or `val/` if `test/` is missing or its pictures have no classes.
        for (names, part) in [
            (
                &[
                    "train/cat/1.png",
                    "train/dog/1.png",
                    "val/cat/2.png",
                    "test/cat/3.png",
                ][..],
                Some(Split::Test),
            ),
            (
                &[
                    "train/cat/1.png",
                    "train/dog/1.png",
                    "val/cat/2.png",
                    "test/3.png",
                ],
                Some(Split::Validation),
            ),
            (
                &["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"],
                Some(Split::Validation),
            ),
            (&["train/cat/1.png", "train/dog/1.png", "test/3.png"], None),
        ] {
            let set = open(names);
            assert_eq!(set.classes, ["cat", "dog"], "{names:?}");
            assert_eq!(set.test_part(), part, "{names:?}");
        }
        // An unlabelled picture gets no class, neither from its folder nor from the other pictures.
        let set = open(&["train/cat/1.png", "train/dog/1.png", "unlabeled/some/2.png"]);
        assert_eq!(set.classes, ["cat", "dog"]);
        assert_eq!(set.items[2].class, None);
        // One folder of pictures has no classes.
        assert!(open(&["a/1.png", "a/2.png"]).classes.is_empty());
        assert!(
            open(&["cat/1.png", "2.png", "dog/3.png"])
                .classes
                .is_empty()
        );
    }
}
