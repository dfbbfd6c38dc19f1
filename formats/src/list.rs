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
    let text = text.trim_start_matches('\u{feff}');
    // A path may contain a comma, but never a tab.
    let delimiter = if text.contains('\t') { '\t' } else { ',' };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter as u8)
        .from_reader(text.as_bytes());
    let mut lines: Vec<(u64, String, Option<String>)> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| Problem::new(format!("not a list: {error}")))?;
        let number = record.position().map_or(0, csv::Position::line);
        let fields: Vec<&str> = record.iter().collect();
        let (name, class) = match fields.split_last() {
            // The other commas belong to a path that is not quoted.
            Some((class, path)) if !path.is_empty() => {
                (path.join(&delimiter.to_string()), Some(unquoted(class)))
            }
            Some((path, _)) => ((*path).to_owned(), None),
            None => continue,
        };
        let name = unquoted(&name);
        let is_blank = name.is_empty() && class.is_none();
        if !is_blank && !name.starts_with('#') {
            lines.push((number, name, class));
        }
    }
    let mut classes: Vec<String> = lines
        .iter()
        .filter_map(|(_, _, class)| class.clone())
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
            location: Location::File(folder.join(&name)),
            name,
            part: Split::Train,
            class: class.and_then(|class| classes.binary_search(&class).ok()),
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

/// A field without the space and the quotes around it; the parser keeps quotes that follow a space.
fn unquoted(field: &str) -> String {
    let field = field.trim();
    let inner = field.strip_prefix('"').and_then(|f| f.strip_suffix('"'));
    inner.unwrap_or(field).to_owned()
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
        // Tabs separate where there are any; quotes are doubled inside quotes, and commas need none.
        for (text, expected) in [
            ("a, b.jpg\tcat\nc.jpg\tdog\n", "a, b.jpg"),
            ("a, b.jpg,cat\nc.jpg,dog\n", "a, b.jpg"),
            (" \"a, b.jpg\", \"cat\"\nc.jpg,dog\n", "a, b.jpg"),
            ("\"a \"\"b\"\".jpg\",cat\r\nc.jpg,dog\r\n", "a \"b\".jpg"),
            ("\u{feff}a.jpg , cat\n# c\n  # d\n\nc.jpg , dog", "a.jpg"),
        ] {
            let list = parse(text, Path::new("")).unwrap();
            assert_eq!(
                (list.items[0].name.as_str(), list.items.len()),
                (expected, 2),
                "{text}"
            );
            assert_eq!(list.classes, ["cat", "dog"], "{text}");
        }
    }
}
