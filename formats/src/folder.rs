//! Pictures in folders, as ImageNet's are: `train/CLASS/x.jpg` and `val/CLASS/y.jpg`, or classes alone, or any folders.

use std::collections::BTreeMap;
use std::path::Path;

use walkdir::WalkDir;

use crate::catalog::{Catalog, Encoding, Entry, Item, Part, Problem};
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

/// The pictures among `entries`, with their classes if all of them have one.
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
            let ending = ending.map_or("no ending".into(), |e| e.to_string_lossy().to_lowercase());
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
            "there are no pictures in it{others}: name one that holds JPEG, PNG, WebP or other pictures, at any depth"
        )));
    }
    let mut left_out = Vec::new();
    if !others.is_empty() {
        left_out.push(format!("files that are no pictures: {}", others.join(", ")));
    }

    // An archive or a copied folder often has one folder around everything.
    let around = common_folder(&found);
    let places: Vec<Place> = found.iter().map(|e| place_of(&e.name[around..])).collect();
    let mut classes: Vec<String> = places.iter().filter_map(|p| p.class.clone()).collect();
    classes.sort();
    classes.dedup();
    // What is learned from says whether there are classes; a test part may come without, as ImageNet's.
    let of = |part: Part| places.iter().filter(move |place| place.part == part);
    let known = |part: Part| of(part).all(|place| place.class.is_some());
    let labelled = classes.len() > 1
        && known(Part::Train)
        && (of(Part::Train).next().is_some()
            || [Part::Test, Part::Validation]
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

/// How long the folder is, with its slash, that all entries lie in and that says nothing about them.
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
        // What lies in it directly has no other folder to be told apart by.
        below.is_some_and(|below| below.contains('/'))
    });
    if shared && !split { first.len() + 1 } else { 0 }
}

/// What a folder's name says about what is in it.
fn part_of(folder: &str) -> Option<Part> {
    match folder.to_lowercase().as_str() {
        "test" => Some(Part::Test),
        "val" | "valid" | "validation" => Some(Part::Validation),
        "train" | "training" => Some(Part::Train),
        "unlabeled" | "unlabelled" => Some(Part::Unlabelled),
        _ => None,
    }
}

/// Where below the root a picture lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The folder it lies in, below the root or below `train/` or `test/`.
    class: Option<String>,
    part: Part,
}

fn place_of(name: &str) -> Place {
    let mut folders: Vec<&str> = name.split('/').collect();
    folders.pop();
    let part = folders.first().and_then(|first| part_of(first));
    if part.is_some() {
        folders.remove(0);
    }
    Place {
        class: folders
            .first()
            .filter(|_| part != Some(Part::Unlabelled))
            .map(|class| (*class).to_owned()),
        part: part.unwrap_or(Part::Train),
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
        assert_eq!(place_of("a.png"), expected(None, Part::Train));
        assert_eq!(place_of("cats/a.png"), expected(Some("cats"), Part::Train));
        assert_eq!(
            place_of("cats/tabby/a.png"),
            expected(Some("cats"), Part::Train)
        );
        assert_eq!(
            place_of("train/cats/a.png"),
            expected(Some("cats"), Part::Train)
        );
        assert_eq!(
            place_of("Test/cats/a.png"),
            expected(Some("cats"), Part::Test)
        );
        assert_eq!(place_of("train/a.png"), expected(None, Part::Train));
        assert_eq!(
            place_of("unlabeled/a.png"),
            expected(None, Part::Unlabelled)
        );
    }

    #[test]
    fn a_folder_around_everything_is_no_class() {
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
        assert_eq!(set.part(Part::Test).collect::<Vec<_>>(), [2]);
        assert_eq!(
            open(&["a/cat/1.png", "a/dog/1.png"]).classes,
            ["cat", "dog"]
        );
        // One part is tested on: `test/`, or `val/` where the other's pictures have no classes.
        for (names, part) in [
            (
                &[
                    "train/cat/1.png",
                    "train/dog/1.png",
                    "val/cat/2.png",
                    "test/cat/3.png",
                ][..],
                Some(Part::Test),
            ),
            (
                &[
                    "train/cat/1.png",
                    "train/dog/1.png",
                    "val/cat/2.png",
                    "test/3.png",
                ],
                Some(Part::Validation),
            ),
            (
                &["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"],
                Some(Part::Validation),
            ),
            (&["train/cat/1.png", "train/dog/1.png", "test/3.png"], None),
        ] {
            let set = open(names);
            assert_eq!(set.classes, ["cat", "dog"], "{names:?}");
            assert_eq!(set.test_part(), part, "{names:?}");
        }
        // What has no class by its place takes none from the others.
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
