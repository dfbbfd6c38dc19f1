//! The page's state that a link stores: where in the lab the visitor is, the settings of the runs, and how it is shown.

use crate::experiments;
use crate::setup::Setup;
use crate::story;
use crate::texts::Language;

/// The parts of the page that a link can hide, for example for a class.
pub const HIDEABLE: [&str; 6] = ["course", "controls", "matrix", "learned", "views", "data"];

/// Where the visitor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At a step of the story, counted from 0.
    Story(usize),
    /// At the laboratory, with all its controls.
    Explore,
}

impl Default for Place {
    fn default() -> Self {
        Self::Story(0)
    }
}

/// The colors of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// The page's state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Where the visitor is.
    pub place: Place,
    /// The language, where it is not the browser's.
    pub language: Option<Language>,
    /// The colors, where they are not the system's.
    pub theme: Option<Theme>,
    /// The settings of the run.
    pub setup: Setup,
    /// The settings of the second run, if two are compared.
    pub other: Option<Setup>,
    /// The name of the experiment whose question is asked.
    pub experiment: Option<String>,
    /// The lesson, from 0; a link counts from 1.
    pub lesson: usize,
    /// The hidden parts, a subset of [`HIDEABLE`].
    pub hidden: Vec<String>,
    /// Whether training starts when the page opens.
    pub play: bool,
}

/// The prefix of the second run's settings in a link.
const OTHER: &str = "b.";

impl Page {
    /// Parses a link's fragment. Returns the state, and the `name=value` pairs that were not understood.
    pub fn parse(fragment: &str) -> (Self, Vec<String>) {
        let mut page = Self::default();
        let mut place = None;
        let mut names_lesson = false;
        let mut unknown = Vec::new();
        let pairs: Vec<_> = form_urlencoded::parse(fragment.as_bytes()).collect();
        // A link stores the second run as its differences from the first, so the first run's pairs are applied first.
        let (of_other, of_page): (Vec<_>, Vec<_>) =
            pairs.iter().partition(|(name, _)| name.starts_with(OTHER));
        for (name, text) in of_page {
            let understood = match &**name {
                "story" => text.parse::<usize>().is_ok_and(|number| {
                    let is_there = (1..=story::STEPS.len()).contains(&number);
                    place = Some(Place::Story(number.saturating_sub(1)));
                    is_there
                }),
                "experiment" => {
                    page.experiment = experiments::of_name(text).map(|found| found.name.to_owned());
                    page.experiment.is_some()
                }
                "explore" => {
                    place = Some(Place::Explore);
                    &**text == "1"
                }
                "lang" => {
                    page.language = Language::of_code(text);
                    page.language.is_some()
                }
                "theme" => {
                    page.theme = match &**text {
                        "light" => Some(Theme::Light),
                        "dark" => Some(Theme::Dark),
                        _ => None,
                    };
                    page.theme.is_some()
                }
                "lesson" => text.parse::<usize>().is_ok_and(|number| {
                    page.lesson = number.saturating_sub(1);
                    names_lesson = number > 0;
                    names_lesson
                }),
                "hide" => {
                    let all = text.split(',').filter(|part| !part.is_empty());
                    let (known, other): (Vec<_>, Vec<_>) =
                        all.partition(|part| HIDEABLE.contains(part));
                    page.hidden = known.into_iter().map(str::to_owned).collect();
                    other.is_empty()
                }
                "play" => {
                    page.play = &**text == "1";
                    true
                }
                name => page.setup.set(name, text),
            };
            if !understood {
                unknown.push(format!("{name}={text}"));
            }
        }
        for (name, text) in of_other {
            let mut setup = page.other.clone().unwrap_or_else(|| page.setup.clone());
            let name = &name[OTHER.len()..];
            if name == "same" || setup.set(name, text) {
                page.other = Some(setup);
            } else {
                unknown.push(format!("{OTHER}{name}={text}"));
            }
        }
        // Links from before the story name settings or a lesson: they are about the laboratory.
        let changed = Setup {
            device: page.setup.device,
            ..Setup::default()
        } != page.setup;
        let is_of_laboratory =
            changed || page.other.is_some() || names_lesson || !page.hidden.is_empty();
        page.place = place.unwrap_or(match is_of_laboratory {
            true => Place::Explore,
            false => Place::default(),
        });
        if let Place::Story(step) = &mut page.place {
            *step = (*step).min(story::STEPS.len() - 1);
        }
        (page, unknown)
    }

    /// The state as a link's fragment, which holds only what differs from the defaults.
    pub fn fragment(&self) -> String {
        let mut fragment = form_urlencoded::Serializer::new(String::new());
        let is_usual = self.setup == Setup::default() && self.other.is_none();
        match self.place {
            Place::Explore => _ = fragment.append_pair("explore", "1"),
            Place::Story(0) if is_usual => {}
            Place::Story(step) => _ = fragment.append_pair("story", &(step + 1).to_string()),
        }
        if let Some(experiment) = &self.experiment {
            fragment.append_pair("experiment", experiment);
        }
        if let Some(language) = self.language {
            fragment.append_pair("lang", language.code());
        }
        if let Some(theme) = self.theme {
            let name = match theme {
                Theme::Light => "light",
                Theme::Dark => "dark",
            };
            fragment.append_pair("theme", name);
        }
        for (name, text) in self.setup.to_pairs() {
            fragment.append_pair(&name, &text);
        }
        if let Some(other) = &self.other {
            let ours = self.setup.to_pairs();
            let theirs = other.to_pairs();
            let usual: Vec<(String, String)> = ours
                .iter()
                .filter(|(name, _)| theirs.iter().all(|(other, _)| other != name))
                .map(|(name, _)| (name.clone(), Setup::default().text_of(name)))
                .collect();
            let changed: Vec<_> = theirs
                .into_iter()
                .filter(|pair| !ours.contains(pair))
                .chain(usual)
                .collect();
            if changed.is_empty() {
                fragment.append_pair("b.same", "1");
            }
            for (name, text) in changed {
                fragment.append_pair(&format!("{OTHER}{name}"), &text);
            }
        }
        if self.lesson > 0 {
            fragment.append_pair("lesson", &(self.lesson + 1).to_string());
        }
        if !self.hidden.is_empty() {
            fragment.append_pair("hide", &self.hidden.join(","));
        }
        if self.play {
            fragment.append_pair("play", "1");
        }
        fragment.finish()
    }

    /// Whether a part of the page is shown.
    pub fn shows(&self, part: &str) -> bool {
        debug_assert!(HIDEABLE.contains(&part), "{part} is not in HIDEABLE");
        !self.hidden.iter().any(|hidden| hidden == part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_restores_the_page() {
        let setup = Setup {
            lambda: 0.5,
            flip_on: false,
            ..Setup::default()
        };
        let page = Page {
            other: Some(Setup {
                lambda: 0.03,
                batch: 16,
                ..setup.clone()
            }),
            setup,
            lesson: 3,
            experiment: Some("invariance".into()),
            hidden: vec!["controls".into(), "data".into()],
            play: true,
            place: Place::Explore,
            language: Some(Language::German),
            theme: Some(Theme::Dark),
        };
        let fragment = page.fragment();
        let (restored, unknown) = Page::parse(&fragment);
        assert_eq!((restored, unknown.len()), (page, 0), "{fragment}");
        assert_eq!(Page::default().fragment(), "");
        let twins = Page {
            other: Some(Setup::default()),
            ..Page::default()
        };
        assert_eq!(Page::parse(&twins.fragment()).0, twins);
    }

    #[test]
    fn a_link_opens_the_laboratory_if_it_is_about_it() {
        for (link, place) in [
            ("", Place::Story(0)),
            ("device=cpu&lang=de", Place::Story(0)),
            ("lesson=1", Place::Explore),
            ("hide=course", Place::Explore),
            ("lambda=0.5", Place::Explore),
            ("lambda=0.5&story=4", Place::Story(3)),
        ] {
            assert_eq!(Page::parse(link).0.place, place, "{link}");
        }
    }

    #[test]
    fn parse_reports_what_it_does_not_understand() {
        let (page, unknown) =
            Page::parse("lambda=0.1&colour=blue&batch=x&hide=controls,sky&lesson=0&b.nothing=1");
        assert_eq!(page.setup.lambda, 0.1);
        assert_eq!(page.hidden, ["controls"]);
        assert_eq!(
            unknown,
            [
                "colour=blue",
                "batch=x",
                "hide=controls,sky",
                "lesson=0",
                "b.nothing=1"
            ]
        );
    }
}
