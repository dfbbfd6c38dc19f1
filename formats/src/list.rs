//! Reads a list of files: one path per line, optionally followed by a tab or a comma and its class.

use std::path::Path;

use crate::catalog::{Catalog, Encoding, Item, Problem, Split};
use crate::location::Location;

/// The largest list that is read, in bytes, and in lines.
const LARGEST: u64 = 1 << 30;
const MOST_LINES: usize = 10_000_000;

/// Reads the list at `path`; the paths in it are absolute, or relative to the list's folder.
pub(crate) fn read(path: &Path) -> Result<Catalog, Problem> {
    if path.metadata()?.len() > LARGEST {
        return Err(Problem::new("the list is larger than 1 GiB"));
    }
    let text = String::from_utf8(std::fs::read(path)?)
        .map_err(|_| Problem::new("not UTF-8 text, so it is not a list of files"))?;
    parse(&text, path.parent().unwrap_or(Path::new("")))
}

/// Parses the text of a list; relative paths in it start at `folder`.
///
/// # Errors
/// If a line has no path, or there are too many lines.
pub(crate) fn parse(text: &str, folder: &Path) -> Result<Catalog, Problem> {
    if text.lines().count() > MOST_LINES {
        return Err(Problem::new(format!(
            "the list has more than {MOST_LINES} lines"
        )));
    }
    let lines: Vec<(usize, &str, Option<&str>)> = text
        .trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            // A path may contain a comma, but never a tab.
            let quoted =
                line.starts_with('"') && line.ends_with('"') && line.matches('"').count() == 2;
            let split = match line.split_once('\t') {
                None if quoted => None,
                None => line.rsplit_once(','),
                split => split,
            };
            match split {
                Some((name, class)) => (number, unquoted(name), Some(unquoted(class))),
                None => (number, unquoted(line), None),
            }
        })
        .collect();
    let mut classes: Vec<String> = lines
        .iter()
        .filter_map(|(_, _, class)| class.map(str::to_owned))
        .collect();
    classes.sort();
    classes.dedup();
    let labelled = classes.len() > 1 && lines.iter().all(|(_, _, class)| class.is_some());
    if !labelled {
        classes.clear();
    }
    let mut items = Vec::with_capacity(lines.len());
    for (number, name, class) in lines {
        if name.is_empty() {
            return Err(Problem::new(format!("line {number} has no path")));
        }
        items.push(Item {
            name: name.to_owned(),
            part: Split::Train,
            class: class.and_then(|class| classes.binary_search_by(|c| c.as_str().cmp(class)).ok()),
            location: Location::File(folder.join(name)),
            encoding: Encoding::File,
        });
    }
    Ok(Catalog {
        format: if labelled {
            "a list of files with classes"
        } else {
            "a list of files"
        },
        items,
        classes,
        left_out: Vec::new(),
    })
}

fn unquoted(field: &str) -> &str {
    let field = field.trim();
    let inner = field.strip_prefix('"').and_then(|f| f.strip_suffix('"'));
    inner.unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_paths_and_classes() {
        let list = parse(
            "# mine\na/1.jpg,cat\n\"b, c.jpg\",dog\n\n/tmp/3.png,cat\n",
            Path::new("/data"),
        );
        let list = list.unwrap();
        assert_eq!(list.classes, ["cat", "dog"]);
        let classes: Vec<_> = list.items.iter().map(|item| item.class).collect();
        assert_eq!(classes, [Some(0), Some(1), Some(0)]);
        let Location::File(path) = &list.items[1].location else {
            panic!("a file");
        };
        assert_eq!(path, Path::new("/data/b, c.jpg"));
        assert!(
            parse("1.jpg\n2.jpg", Path::new(""))
                .unwrap()
                .classes
                .is_empty()
        );
        assert!(parse("1.jpg\n,cat\n", Path::new("")).is_err());
    }
}
