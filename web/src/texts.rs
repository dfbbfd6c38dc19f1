//! The lab's texts in every language, from one table: `data/texts.tsv`, a line per text and a column per language. Another language is
//! another column and another variant of [`Language`].

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::OnceLock;

/// A language of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// German.
    German,
}

impl Language {
    /// All languages, in the order of the table's columns.
    pub const ALL: [Self; 2] = [Self::English, Self::German];

    /// The language's name in itself.
    pub fn name(self) -> &'static str {
        ["English", "Deutsch"][self as usize]
    }

    /// Its code, as in a link and in a browser's settings.
    pub fn code(self) -> &'static str {
        ["en", "de"][self as usize]
    }

    /// The language of a code such as `de` or `de-AT`.
    pub fn of_code(code: &str) -> Option<Self> {
        let code = code.split(['-', '_']).next().unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|language| language.code() == code)
    }
}

thread_local! {
    /// The language in use: the panel has one thread, and each test its own.
    static LANGUAGE: Cell<Language> = const { Cell::new(Language::English) };
}

/// Changes the language of all texts of this thread.
pub fn set_language(language: Language) {
    LANGUAGE.set(language);
}

/// The language of all texts of this thread.
pub fn language() -> Language {
    LANGUAGE.get()
}

static TABLE: &str = include_str!("../data/texts.tsv");

type Columns = [&'static str; Language::ALL.len()];

/// The lines of the table: a key, and the text of each language. The first line names the columns, and lines that begin with `#` are
/// comments.
fn lines() -> impl Iterator<Item = (&'static str, Columns)> {
    let all = TABLE.lines().skip(1);
    all.filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let mut cells = line.split('\t');
            let key = cells.next()?;
            let mut columns = [""; Language::ALL.len()];
            for column in &mut columns {
                *column = cells.next()?;
            }
            Some((key, columns))
        })
}

/// The text of that key in the language in use. A key that is not in the table is returned as it is.
pub fn text(key: &'static str) -> &'static str {
    static TEXTS: OnceLock<HashMap<&'static str, Columns>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| lines().collect());
    texts
        .get(key)
        .map_or(key, |columns| columns[language() as usize])
}

/// The text of that key, with each `{name}` replaced by its value.
pub fn filled(key: &'static str, values: &[(&str, &str)]) -> String {
    let mut filled = text(key).to_owned();
    for (name, value) in values {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    filled
}

/// A number as the language in use writes it, with that many digits after the point.
pub fn number(value: f64, digits: usize) -> String {
    localized(&format!("{value:.digits$}"))
}

/// A number that Rust formatted, as the language in use writes it.
pub fn localized(formatted: &str) -> String {
    let written = formatted.replace('-', "−");
    match language() {
        Language::English => written,
        Language::German => written.replace('.', ","),
    }
}

/// The number that a visitor typed. In German, a point is read like the comma; in English, a comma is not understood, as it could
/// separate thousands.
pub fn parsed(typed: &str) -> Option<f64> {
    let typed = typed.replace(char::is_whitespace, "").replace('−', "-");
    let typed = match language() {
        Language::English => typed,
        Language::German => typed.replace(',', "."),
    };
    typed.parse().ok().filter(|value: &f64| value.is_finite())
}

/// A fraction in percent.
pub fn percent(fraction: f64) -> String {
    match language() {
        Language::English => format!("{}%", number(100.0 * fraction, 0)),
        Language::German => format!("{} %", number(100.0 * fraction, 0)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use eframe::egui;

    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for chosen in [Language::English, Language::German] {
            set_language(chosen);
            for value in [0.0, 0.03, -1.5, 128.0] {
                assert_eq!(parsed(&number(value, 2)), Some(value));
            }
        }
        set_language(Language::German);
        assert_eq!(parsed("0.5"), Some(0.5));
        set_language(Language::English);
        for wrong in ["", "a", "1,000", "inf", "NaN"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert_eq!(parsed("1 000"), Some(1000.0));
    }

    /// A browser would draw what is missing with a font of its own, a window an empty box.
    #[test]
    fn the_font_has_every_letter() {
        let context = egui::Context::default();
        crate::panel::apply_style(&context);
        _ = context.run_ui(egui::RawInput::default(), |_| {});
        let font = egui::FontId::proportional(14.0);
        // And the signs on buttons.
        let letters = TABLE.chars().chain("☀●◀▶■×‖".chars());
        let letters = letters.filter(|letter| !letter.is_control());
        let missing: BTreeSet<char> = context.fonts_mut(|fonts| {
            letters
                .filter(|letter| !fonts.has_glyph(&font, *letter))
                .collect()
        });
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// The names in braces.
    fn blanks(text: &str) -> BTreeSet<&str> {
        let parts = text.split('{').skip(1);
        parts.filter_map(|part| part.split('}').next()).collect()
    }

    #[test]
    fn every_language_has_every_text() {
        let mut known = BTreeSet::new();
        let written = TABLE
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        assert_eq!(
            written.count(),
            lines().count(),
            "a line without all columns"
        );
        for (key, columns) in lines() {
            assert!(known.insert(key), "{key} is there twice");
            for column in columns {
                assert!(!column.trim().is_empty(), "{key} has an empty text");
                assert_eq!(blanks(column), blanks(columns[0]), "{key}: {column}");
            }
        }
    }

    /// All `.rs` files below a folder.
    fn sources(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn the_table_has_what_the_panel_asks_for_and_no_more() {
        let mut source = String::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut source,
        );
        let source = source.as_str();
        let keys: BTreeSet<&str> = lines().map(|(key, _)| key).collect();
        // These keys are made of the experiments' names.
        let of_experiments: BTreeSet<&str> = crate::experiments::EXPERIMENTS
            .iter()
            .flat_map(|experiment| {
                let texts = &experiment.texts;
                let all = [texts.action, texts.ask, texts.seen];
                all.into_iter().chain(texts.answers.iter().copied())
            })
            .collect();
        assert!(
            of_experiments.is_subset(&keys),
            "{:?}",
            of_experiments.difference(&keys)
        );
        for call in ["text(", "filled("] {
            for (at, _) in source.match_indices(call) {
                let is_other = source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                let rest = source[at + call.len()..].trim_start();
                let Some(asked) = rest.strip_prefix('"').filter(|_| !is_other) else {
                    continue;
                };
                let key = asked.split('"').next().unwrap_or_default();
                // This loop's own words are no key.
                if key.contains(' ') {
                    continue;
                }
                assert!(keys.contains(key), "no text of the key {key}");
            }
        }
        for key in keys {
            let is_used = of_experiments.contains(key) || source.contains(&format!("\"{key}\""));
            assert!(is_used, "nothing asks for {key}");
        }
    }

    #[test]
    fn numbers_are_written_as_the_language_does() {
        assert_eq!(number(-0.5, 2), "−0.50");
        assert_eq!(percent(0.071), "7%");
        assert_eq!(Language::of_code("de-CH"), Some(Language::German));
        assert_eq!(Language::of_code("fr"), None);
    }
}
