//! Tests of the panel through its accessibility labels, as a screen reader finds them, with a trainer on a thread.

use std::time::{Duration, Instant};

use barlow_lab::lab::Lab;
use barlow_lab::page::Place;
use barlow_lab::panel::{self, View};
use barlow_lab::run::Activity;
use barlow_lab::setup::DataChoice;
use eframe::egui::accesskit::Role;
use eframe::egui::{self, Event, Key, Pos2, TouchDeviceId, TouchId, TouchPhase, Vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};

/// The longest time that a test waits for a trainer.
const TIME_BUDGET: Duration = Duration::from_secs(300);

/// Settings of a run that is small enough for a test.
const TINY: &str = "device=cpu&batch=16&projector=8&encoder_width=4&warmup=0";

const DESKTOP: Vec2 = Vec2::new(1440.0, 2400.0);
const PHONE: Vec2 = Vec2::new(390.0, 3000.0);

/// The lab, once its font is there, and how it is shown.
type State = (Option<Lab>, View);

fn open_panel(fragment: &'static str, size: Vec2) -> Harness<'static, State> {
    let show = move |ui: &mut egui::Ui, state: &mut State| {
        let context = ui.ctx().clone();
        let (lab, view) = state;
        match lab {
            // The font is available from the next frame on.
            None => {
                panel::apply_style(&context);
                *lab = Some(Lab::new(fragment, &context));
            }
            Some(lab) => panel::show(lab, view, ui),
        }
    };
    let mut harness = Harness::builder()
        .with_size(size)
        .build_ui_state(show, State::default());
    wait(&mut harness, "the run is open", |lab| {
        lab.runs.iter().all(|run| run.opened.is_some())
    });
    harness
}

fn lab<'a>(harness: &'a Harness<'static, State>) -> &'a Lab {
    harness.state().0.as_ref().unwrap()
}

fn wait(harness: &mut Harness<'static, State>, words: &str, wish: impl Fn(&Lab) -> bool) {
    let start = Instant::now();
    loop {
        harness.step();
        if harness.state().0.as_ref().is_some_and(&wish) {
            // Draws the changes.
            harness.run_steps(2);
            return;
        }
        assert!(
            start.elapsed() < TIME_BUDGET,
            "timed out waiting until {words}: {:?}",
            lab(harness).messages
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn play_trains_and_pause_waits() {
    let mut harness = open_panel(TINY, DESKTOP);
    harness.get_by_label("Cross-correlation matrix C, empty before the first step");
    harness.get_by_label("Play").click();
    wait(&mut harness, "steps and matrices are there", |lab| {
        lab.runs[0].history.steps.len() >= 12 && lab.runs[0].history.frames.len() >= 12
    });
    harness.get_by_label("Pause").click();
    wait(&mut harness, "it waits", |lab| !lab.is_playing());
    harness.get_by_label_contains("8 by 8: mean diagonal");
    harness.get_by_label("Replay the run").click();
    harness.run_steps(2);
    harness.get_by_label("Stop the replay");
    let ended = Instant::now();
    while harness.query_by_label("Replay the run").is_none() {
        assert!(ended.elapsed() < TIME_BUDGET, "the replay does not end");
        harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    // One more step.
    let done = lab(&harness).runs[0].history.steps.len();
    harness.get_by_label("One step").click();
    wait(&mut harness, "one step more is done", |lab| {
        lab.runs[0].history.steps.len() > done
    });
    wait(&mut harness, "its matrix came", |lab| {
        let history = &lab.runs[0].history;
        history.last.as_ref().map(|(step, _)| *step)
            == history.steps.last().map(|report| report.step)
    });
    let report = lab(&harness).runs[0].history.steps.last().unwrap().clone();
    assert!(report.loss.is_finite());
    harness
        .get_by_label("Restart from an untrained network")
        .click();
    wait(&mut harness, "it is new", |lab| {
        lab.runs[0].history.steps.is_empty() && lab.runs[0].opened.is_some()
    });
}

#[test]
fn switches_keep_the_run_and_sizes_restart_it() {
    let mut harness = open_panel(TINY, DESKTOP);
    harness.get_by_label("One step").click();
    wait(&mut harness, "a step is done", |lab| {
        lab.runs[0].history.steps.len() == 1
    });
    harness.get_by_label("Mirror").click();
    wait(&mut harness, "the switch is off", |lab| {
        !lab.runs[0].setup.flip_on
    });
    assert_eq!(lab(&harness).runs[0].history.steps.len(), 1);
    assert!(lab(&harness).page.fragment().contains("flip_on=false"));
    // Its reset button.
    harness.get_by_label("Reset Mirror").click();
    wait(&mut harness, "the switch is on", |lab| {
        lab.runs[0].setup.flip_on
    });
    harness.get_by_label("Reset Projector").click();
    wait(&mut harness, "the projector is the usual one", |lab| {
        lab.runs[0].setup.projector == 64
    });
    wait(&mut harness, "it began anew", |lab| {
        lab.runs[0].history.steps.is_empty() && lab.runs[0].opened.is_some()
    });
}

#[test]
fn another_data_set_starts_anew_and_goes_on_playing() {
    let mut harness = open_panel(TINY, DESKTOP);
    harness.get_by_label("Play").click();
    wait(&mut harness, "it trains", |lab| {
        lab.runs[0].history.steps.len() >= 2
    });
    harness
        .get_by_label("Fashion-MNIST: 3000 pieces of clothing (1.2 MB)")
        .click();
    wait(&mut harness, "it trains on clothes", |lab| {
        lab.runs.first().is_some_and(|run| {
            run.setup.data == DataChoice::Fashion && !run.history.steps.is_empty()
        })
    });
    assert!(lab(&harness).is_playing());
}

#[test]
fn an_experiment_asks_first_and_tells_what_happened() {
    let mut harness = open_panel("device=cpu&lesson=2", DESKTOP);
    harness.get_by_label("Lesson 2 of 8");
    harness
        .get_by_label("▶ One step of an untrained network")
        .click();
    harness.run_steps(2);
    assert!(
        !lab(&harness).is_playing(),
        "nothing runs before there is an answer"
    );
    harness.get_by_label("White everywhere").click();
    wait(&mut harness, "the experiment is judged", |lab| {
        lab.asked
            .as_ref()
            .is_some_and(|asked| asked.outcome.is_some())
    });
    assert!(!lab(&harness).is_playing());
    harness.get_by_label_contains("It turned out differently: A pale mixture of red and blue");
    harness.get_by_label("Other experiments").click();
    harness.run_steps(2);
    harness.get_by_label("▶ One step of an untrained network");
}

#[test]
fn an_experiment_sets_the_controls_and_a_changed_control_ends_it() {
    let mut harness = open_panel("device=cpu&explore=1&lesson=3", DESKTOP);
    harness
        .get_by_label("▶ Only ask that the views agree")
        .click();
    harness.run_steps(2);
    harness.get_by_label("It stays red and blue").click();
    wait(&mut harness, "two runs play", |lab| {
        lab.runs.len() == 2 && lab.is_playing()
    });
    assert_eq!(
        lab(&harness).page.fragment(),
        "explore=1&experiment=invariance&device=cpu&b.objective=invariance&lesson=3"
    );
    harness.get_by_label("Run B");
    harness.get_by_label("Mirror").click();
    wait(&mut harness, "the experiment is over", |lab| {
        lab.asked.is_none()
    });
    harness.get_by_label("Pause").click();
    wait(&mut harness, "both wait", |lab| !lab.is_playing());
}

/// The sizes of a phone, a frame in another page, a laptop at 200%, a projector, and a laptop.
const SIZES: [[f32; 2]; 5] = [
    [360.0, 740.0],
    [600.0, 700.0],
    [720.0, 450.0],
    [1024.0, 768.0],
    [1440.0, 900.0],
];

#[test]
fn the_story_fits_every_screen_in_every_language() {
    for [width, height] in SIZES {
        for language in ["en", "de"] {
            let fragment = format!("device=cpu&lang={language}");
            let mut harness = open_panel(fragment.leak(), Vec2::new(width, height));
            harness.key_press(Key::Space);
            wait(&mut harness, "it trains", |lab| {
                lab.runs[0].history.steps.len() >= 2
            });
            let pages = barlow_lab::story::STEPS.len();
            for page in 1..=pages {
                harness.run_steps(4);
                picture(&mut harness, &format!("{width}x{height}-{language}-{page}"));
                for node in harness.root().children_recursive() {
                    let node = node.accesskit_node();
                    let [left, right] = node
                        .bounding_box()
                        .map_or([0.0; 2], |bounds| [bounds.x0, bounds.x1]);
                    assert!(
                        left >= -1.0 && right <= f64::from(width) + 1.0,
                        "{width}x{height}, page {page}: {:?} extends from {left} to {right}",
                        node.label()
                    );
                }
                harness.key_press(Key::ArrowRight);
            }
            assert!(matches!(lab(&harness).page.place, Place::Story(place) if place == pages - 1));
        }
    }
}

#[test]
fn the_bar_of_the_laboratory_fits_every_screen_in_every_language() {
    for [width, height] in SIZES {
        for language in ["en", "de"] {
            let fragment = format!("{TINY}&b.lambda=0.5&explore=1&lang={language}");
            let size = Vec2::new(width, height);
            let mut harness = open_panel(fragment.leak(), size);
            harness.key_press(Key::Space);
            wait(&mut harness, "it trains", |lab| {
                lab.runs[0].history.steps.len() >= 12
            });
            harness.run_steps(4);
            picture(&mut harness, &format!("{width}x{height}-{language}-lab"));
            let root = harness.root();
            let in_bar: Vec<_> = root
                .children_recursive()
                .map(|node| node.accesskit_node())
                .filter(|node| matches!(node.role(), Role::Button | Role::Label))
                .filter_map(|node| Some((node.label().or(node.value())?, node.bounding_box()?)))
                .collect();
            // Those of the bar come first.
            let end = in_bar.iter().position(|(_, place)| place.y0 > 200.0);
            let in_bar = &in_bar[..end.unwrap_or(in_bar.len()).min(12)];
            assert!(in_bar.len() >= 8, "{in_bar:?}");
            for (index, (name, place)) in in_bar.iter().enumerate() {
                assert!(
                    place.x0 >= 0.0 && place.x1 <= f64::from(width),
                    "{width}, {language}: {name:?} at {place:?}"
                );
                for (other, beside) in &in_bar[..index] {
                    let common = place.intersect(*beside);
                    assert!(
                        common.width() < 1.0 || common.height() < 1.0,
                        "{width}, {language}: {name:?} at {place:?} covers {other:?} at {beside:?}"
                    );
                }
            }
        }
    }
}

/// Saves a picture of the panel into the folder of the variable `BARLOW_PICTURES`, if there is one.
fn picture(harness: &mut Harness<'static, State>, name: &str) {
    let Some(folder) = std::env::var_os("BARLOW_PICTURES") else {
        return;
    };
    let path = std::path::Path::new(&folder).join(format!("{name}.png"));
    harness.render().unwrap().save(path).unwrap();
}

/// The laboratory with two runs that differ in λ.
fn two_runs_after_a_step() -> Harness<'static, State> {
    let mut harness = open_panel(
        "device=cpu&batch=16&projector=8&encoder_width=4&warmup=0&b.lambda=0.5",
        DESKTOP,
    );
    harness.get_by_label("One step").click();
    wait(&mut harness, "both did a step", |lab| {
        lab.runs.iter().all(|run| run.history.steps.len() == 1)
    });
    harness
}

/// The story's first page with a C, paused.
fn panel_with_c(size: Vec2) -> Harness<'static, State> {
    let mut harness = open_panel("device=cpu", size);
    harness.get_by_label("Train").click();
    wait(&mut harness, "C is there", |lab| {
        !lab.runs[0].history.smoothed.is_empty() && lab.runs[0].history.batch.is_some()
    });
    harness.get_by_label("Pause").click();
    wait(&mut harness, "it waits", |lab| !lab.is_playing());
    harness
}

/// Of two runs, the one whose steps take less time would otherwise go on, and be judged by later scores.
#[test]
fn both_runs_of_an_experiment_are_judged_after_as_many_steps() {
    let mut harness = open_panel("story=8&device=cpu&experiment=batch", DESKTOP);
    harness.get_by_label("In that of 16 pictures").click();
    wait(&mut harness, "it is judged", |lab| {
        lab.asked
            .as_ref()
            .is_some_and(|asked| asked.outcome.is_some())
    });
    // Of both, the first inspection from step 150 on: the pause's.
    let asked = lab(&harness).asked.clone().unwrap();
    let readings = asked.outcome.unwrap().readings;
    for (reading, run) in readings.iter().zip(&lab(&harness).runs) {
        let inspected = run.history.inspections.iter().find(|i| i.step >= 150);
        let inspected = inspected.expect("an inspection");
        assert_eq!(reading.score, inspected.score);
        // It was paused there, and not at its end.
        let steps = run.opened.as_ref().unwrap().steps;
        assert!(run.history.steps.len() < steps);
    }
}

/// A teacher pauses to discuss what is seen, and the experiment goes on where it was.
#[test]
fn a_paused_experiment_of_the_story_goes_on() {
    let mut harness = open_panel(
        "story=8&device=cpu&experiment=redundancy",
        Vec2::new(1440.0, 900.0),
    );
    assert!(
        harness.query_by_label("Train").is_none(),
        "the answers are the buttons"
    );
    harness
        .get_by_label("It turns red, but more slowly")
        .click();
    wait(&mut harness, "both train", |lab| {
        lab.runs.len() == 2 && lab.runs.iter().all(|run| run.history.steps.len() >= 2)
    });
    let ids = |lab: &Lab| [0, 1].map(|run| lab.runs[run].history.id);
    let before = ids(lab(&harness));
    harness.get_by_label("Pause").click();
    wait(&mut harness, "they wait", |lab| !lab.is_playing());
    harness.key_press(Key::Space);
    wait(&mut harness, "the space bar goes on", Lab::is_playing);
    harness.key_press(Key::Space);
    wait(&mut harness, "they wait again", |lab| !lab.is_playing());
    let done = lab(&harness).runs[1].history.steps.len();
    harness.get_by_label("Go on training").click();
    harness.run_steps(2);
    assert!(lab(&harness).is_playing());
    // One step may have been in progress.
    wait(&mut harness, "they go on", |lab| {
        lab.runs[1].history.steps.len() >= done + 2
    });
    assert_eq!(ids(lab(&harness)), before, "the runs are the same");
    assert!(lab(&harness).asked.as_ref().unwrap().predicted.is_some());
    // Left before it is judged, it does not hold the story up.
    harness.get_by_label("Other experiments").click();
    harness.run_steps(2);
    harness.get_by_label("Pause").click();
    harness.run_steps(2);
    harness.get_by_label("Train the usual way").click();
    wait(&mut harness, "one run trains", |lab| {
        lab.runs.len() == 1 && lab.is_playing()
    });
}

/// What is there when the next question is asked would be taken for it; and when the same is asked again, it is the answer.
#[test]
fn a_question_hides_what_happened_before() {
    let mut harness = open_panel(
        "story=8&device=cpu&experiment=first-step",
        Vec2::new(1440.0, 900.0),
    );
    let is_c_shown = |harness: &Harness<'static, State>| {
        let mut shown = harness.query_all_by_label_contains("Cross-correlation matrix at step");
        shown.next().is_some()
    };
    harness.get_by_label("White everywhere").click();
    wait(&mut harness, "it is judged", |lab| {
        lab.asked
            .as_ref()
            .is_some_and(|asked| asked.outcome.is_some())
    });
    assert!(is_c_shown(&harness));
    picture(&mut harness, "result");
    harness.get_by_label("Repeat").click();
    harness.run_steps(3);
    assert!(!is_c_shown(&harness));
    picture(&mut harness, "question");
    harness.get_by_label("White everywhere");
    assert!(harness.query_by_label("Train the usual way").is_none());
    harness.get_by_label("Other experiments").click();
    harness.run_steps(3);
    harness.key_press(Key::Space);
    harness.run_steps(3);
    assert!(
        !lab(&harness).is_playing(),
        "the space bar does not replace a run"
    );
    harness.get_by_label("Train the usual way").click();
    wait(&mut harness, "a usual run trains", |lab| {
        lab.is_playing() && lab.page.setup.warmup > 0
    });
}

/// The space bar, which scrolls elsewhere, does not throw away what was learned.
#[test]
fn only_a_button_starts_a_finished_run_again() {
    for (place, again) in [
        ("explore=1", "Train again"),
        ("story=1", "Train the usual way"),
    ] {
        let fragment = format!("{place}&device=cpu&batch=128&projector=8&encoder_width=4&epochs=1");
        let mut harness = open_panel(fragment.leak(), Vec2::new(1440.0, 900.0));
        harness.key_press(Key::Space);
        wait(&mut harness, "it is over", |lab| {
            lab.runs[0].activity == Activity::Finished
        });
        harness.key_press(Key::Space);
        harness.run_steps(3);
        assert_eq!(lab(&harness).runs[0].activity, Activity::Finished);
        harness.get_by_label(again).click();
        wait(&mut harness, "it trains again", Lab::is_playing);
    }
}

#[test]
fn from_c_to_an_entry_and_back() {
    let mut harness = panel_with_c(Vec2::new(1440.0, 900.0));
    harness
        .get_by_label_contains("Cross-correlation matrix at step")
        .click();
    wait(&mut harness, "the entry is shown", |lab| {
        lab.page.place == Place::Story(3)
    });
    harness.run_steps(60);
    harness.get_by_label_contains("C, entry in row");
    harness.get_by_label_contains("Scatter plot of 32 pictures");
    harness.get_by_label("Back").click();
    harness.run_steps(2);
    harness.get_by_label_contains("Dimension 0 of 32 pictures");
}

#[test]
fn gestures_zoom_from_c_to_an_entry_and_back() {
    let mut harness = panel_with_c(Vec2::new(1440.0, 900.0));
    let place = |harness: &Harness<'static, State>| lab(harness).page.place;
    let c = harness
        .get_by_label_contains("Cross-correlation matrix at step")
        .rect();
    // The entry in row 16 and column 48 of 64.
    let at = c.min + Vec2::new(48.5, 16.5) / 64.0 * c.size();
    let zoom = |harness: &mut Harness<'static, State>, at: Pos2, factor: f32| {
        harness.event(Event::PointerMoved(at));
        harness.run_steps(2);
        harness.event(Event::Zoom(factor));
        harness.run_steps(60);
    };
    for _ in 0..2 {
        zoom(&mut harness, at, 1.1);
        assert_eq!(
            place(&harness),
            Place::Story(0),
            "a small movement does nothing"
        );
    }
    zoom(&mut harness, at, 1.25);
    assert_eq!(place(&harness), Place::Story(3));
    let entry = harness.get_by_label_contains("C, entry in row 16 and column 48");
    let center = entry.rect().center();
    // One long gesture, in small movements.
    harness.event(Event::PointerMoved(center));
    for _ in 0..8 {
        harness.event(Event::Zoom(0.9));
        harness.step();
    }
    harness.run_steps(60);
    assert_eq!(
        place(&harness),
        Place::Story(3),
        "first the whole of C is shown"
    );
    zoom(&mut harness, center, 0.8);
    assert_eq!(place(&harness), Place::Story(0), "and then the beginning");
}

/// One finger scrolls a page that is higher than the screen. Two fingers zoom, so the page must not scroll under them.
#[test]
fn one_finger_scrolls_and_two_do_not() {
    let mut harness = panel_with_c(Vec2::new(390.0, 640.0));
    let c = |harness: &Harness<'static, State>| {
        harness
            .get_by_label_contains("Cross-correlation matrix at step")
            .rect()
    };
    let touch = |harness: &mut Harness<'static, State>, id: u64, phase: TouchPhase, pos: Pos2| {
        harness.event(Event::Touch {
            device_id: TouchDeviceId(0),
            id: TouchId(id),
            phase,
            pos,
            force: None,
        });
        // A browser's first finger is its pointer too.
        if id == 1 {
            let button = |pressed| Event::PointerButton {
                pos,
                button: egui::PointerButton::Primary,
                pressed,
                modifiers: egui::Modifiers::NONE,
            };
            match phase {
                TouchPhase::Start => {
                    harness.event(Event::PointerMoved(pos));
                    harness.event(button(true));
                }
                TouchPhase::Move => harness.event(Event::PointerMoved(pos)),
                _ => {
                    harness.event(button(false));
                    harness.event(Event::PointerGone);
                }
            }
        }
        harness.step();
    };
    let drag = |harness: &mut Harness<'static, State>, fingers: u64| {
        let before = c(harness).top();
        let place = |finger: u64, up: f32| Pos2::new(100.0 + 100.0 * finger as f32, 500.0 - up);
        for finger in 1..=fingers {
            touch(harness, finger, TouchPhase::Start, place(finger, 0.0));
        }
        for up in 1..=8 {
            for finger in 1..=fingers {
                touch(
                    harness,
                    finger,
                    TouchPhase::Move,
                    place(finger, 8.0 * up as f32),
                );
            }
        }
        let moved = c(harness).top() - before;
        for finger in 1..=fingers {
            touch(harness, finger, TouchPhase::End, place(finger, 64.0));
        }
        harness.run_steps(60);
        moved
    };
    assert_eq!(drag(&mut harness, 2), 0.0);
    assert!(drag(&mut harness, 1) < -20.0);
}

#[test]
fn names_of_curves_stay_on_a_narrow_screen() {
    let mut harness = open_panel(
        "device=cpu&batch=16&projector=8&encoder_width=4&warmup=0&b.lambda=0.5",
        PHONE,
    );
    harness.get_by_label("One step").click();
    wait(&mut harness, "both did a step", |lab| {
        lab.runs.iter().all(|run| run.history.steps.len() == 1)
    });
    harness.get_by_label("loss").click();
    harness.run_steps(4);
    for run in ["A", "B"] {
        for name in ["loss", "invariance", "λ · redundancy"] {
            let name = format!("{run}: {name}");
            let place = harness.get_by_label_contains(&name).rect();
            assert!(
                place.left() >= 0.0 && place.right() <= PHONE.x,
                "{name}: {place:?}"
            );
        }
    }
}

#[test]
fn two_runs_start_alike() {
    let harness = two_runs_after_a_step();
    let [a, b] = [0, 1].map(|run| lab(&harness).runs[run].history.steps[0].clone());
    // Only λ differs: the terms of the first loss are the same, their weights are not.
    assert_eq!((a.invariance, a.redundancy), (b.invariance, b.redundancy));
    assert_ne!(a.loss, b.loss);
}

/// Of two runs, the one that is at its end keeps what it has learned while the other one goes on.
#[test]
fn a_run_at_its_end_stays_when_the_other_one_goes_on() {
    let mut harness = two_runs_after_a_step();
    let lab = harness.state_mut().0.as_mut().unwrap();
    lab.runs[0].activity = Activity::Finished;
    let history = lab.runs[0].history.id;
    lab.play();
    assert_eq!(lab.runs[0].history.id, history);
    assert_eq!(
        [0, 1].map(|run| lab.runs[run].activity),
        [Activity::Finished, Activity::Playing]
    );
    lab.pause();
    lab.runs[1].activity = Activity::Finished;
    lab.play();
    assert!(lab.runs.iter().all(|run| run.is_playing()));
}

/// A run that is over goes on where it is asked for more epochs.
#[test]
fn more_epochs_go_on_with_a_run() {
    let mut harness = open_panel(
        "device=cpu&batch=128&projector=8&encoder_width=4&warmup=0&epochs=1",
        DESKTOP,
    );
    harness.get_by_label("Play").click();
    wait(&mut harness, "it is over", |lab| {
        lab.runs[0].activity == Activity::Finished
    });
    let lab = harness.state_mut().0.as_mut().unwrap();
    let done = lab.runs[0].history.steps.len();
    lab.page.setup.epochs = 2;
    lab.apply();
    assert_eq!(lab.runs[0].opened.as_ref().unwrap().steps, 2 * done);
    lab.play();
    wait(&mut harness, "it is over again", |lab| {
        lab.runs[0].activity == Activity::Finished
    });
    assert_eq!(
        harness.state().0.as_ref().unwrap().runs[0]
            .history
            .steps
            .len(),
        2 * done
    );
}

#[test]
fn messages_of_an_earlier_run_are_ignored() {
    let mut harness = open_panel(TINY, DESKTOP);
    // Each restart comes before the previous run is open.
    for _ in 0..3 {
        harness
            .get_by_label("Restart from an untrained network")
            .click();
        harness.get_by_label("Play").click();
        harness.step();
    }
    wait(&mut harness, "it trains", |lab| {
        lab.runs[0].history.steps.len() >= 5
    });
    assert!(lab(&harness).is_playing());
    let steps: Vec<usize> = lab(&harness).runs[0]
        .history
        .steps
        .iter()
        .map(|report| report.step)
        .collect();
    assert_eq!(steps, (1..=steps.len()).collect::<Vec<_>>());
}

#[test]
fn hidden_parts_are_absent() {
    let harness = open_panel(
        "device=cpu&batch=16&projector=8&encoder_width=4&hide=controls,course",
        DESKTOP,
    );
    assert!(harness.query_by_label("Mirror").is_none());
    assert!(harness.query_by_label("Next lesson").is_none());
    harness.get_by_label("Play");
}

#[test]
fn a_phone_shows_one_part_at_a_time() {
    let mut harness = open_panel(TINY, PHONE);
    assert!(harness.query_by_label("Mirror").is_none());
    harness.get_by_label("Controls").click();
    harness.run_steps(3);
    harness.get_by_label("Mirror");
    harness.get_by_label("Course").click();
    harness.run_steps(3);
    harness.get_by_label("Next lesson").click();
    harness.run_steps(3);
    harness.get_by_label("Lesson 2 of 8");
    for node in harness.root().children_recursive() {
        let right = node
            .accesskit_node()
            .bounding_box()
            .map_or(0.0, |bounds| bounds.x1);
        assert!(
            right <= f64::from(PHONE.x) + 1.0,
            "{:?} extends beyond the screen, to {right}",
            node.accesskit_node().label()
        );
    }
}

#[test]
fn keys_play_and_move_the_focus() {
    let mut harness = open_panel(TINY, DESKTOP);
    harness.key_press(Key::Space);
    wait(&mut harness, "the space bar plays", Lab::is_playing);
    harness.key_press(Key::Space);
    wait(&mut harness, "the space bar pauses", |lab| {
        !lab.is_playing()
    });
    harness.key_press(Key::Tab);
    harness.run_steps(2);
    harness.key_press(Key::Enter);
    wait(&mut harness, "the first button is Play", Lab::is_playing);
}

#[test]
fn a_wrong_link_is_explained() {
    let harness = open_panel(
        "device=cpu&batch=16&projector=8&encoder_width=4&lambda=much",
        DESKTOP,
    );
    harness.get_by_label_contains("Not understood in the link, and ignored: lambda=much");
}
