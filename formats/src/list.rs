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
    let mut lines: Vec<(usize, String, Option<String>)> = Vec::new();
    let text = text.trim_start_matches('\u{feff}');
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields = fields(line)?;
        // A path may contain a comma, but never a tab.
        let (path, class) = match &fields[..] {
            [] => continue,
            [path] => (path.clone(), None),
            [path, class @ ..] if line.contains('\t') => (path.clone(), Some(class.join("\t"))),
            [path @ .., class] => (path.join(","), Some(class.clone())),
        };
        // Space at the ends of the line is gone: what is left before a path is inside quotes.
        let path = if line.starts_with('"') {
            path
        } else {
            path.trim().to_owned()
        };
        lines.push((index + 1, path, class.map(|class| unquoted(&class))));
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

/// The fields of a line: separated by tabs if it has any, else by commas.
fn fields(line: &str) -> Result<Vec<String>, Problem> {
    let delimiter = if line.contains('\t') { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter)
        .buffer_capacity(line.len())
        .from_reader(line.as_bytes());
    let record = reader.records().next().transpose();
    let record = record.map_err(|error| Problem::new(format!("not a list: {error}")))?;
    let fields = record.iter().flatten().map(str::to_owned);
    Ok(fields.collect())
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
        // A line's tabs separate it where it has any; quotes are doubled inside quotes, and commas need none.
        for (text, expected) in [
            ("a, b.jpg\tcat\nc.jpg\tdog\n", "a, b.jpg"),
            ("a, b.jpg,cat\nc.jpg,dog\n", "a, b.jpg"),
            (" \"a, b.jpg\", \"cat\"\nc.jpg,dog\n", "a, b.jpg"),
            ("\"a \"\"b\"\".jpg\",cat\r\nc.jpg,dog\r\n", "a \"b\".jpg"),
            ("\"#1.jpg\",cat\nc.jpg\tdog\n", "#1.jpg"),
            ("\" a.jpg\",cat\nc.jpg,dog\t\n", " a.jpg"),
            ("a.jpg\tcat\nc.jpg,dog", "a.jpg"),
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

    #[test]
    fn further_columns_belong_to_the_class_and_quotes_end_with_their_line() {
        let list = parse("a.jpg\tcat\ttrain\nb.jpg\tdog\ttrain\n", Path::new("")).unwrap();
        assert_eq!(list.items[0].name, "a.jpg");
        assert_eq!(list.classes, ["cat\ttrain", "dog\ttrain"]);
        let list = parse("\"a.jpg\nb.jpg\nc.jpg\n", Path::new("")).unwrap();
        assert_eq!(list.items.len(), 3);
    }
}
