//! The story: one step at a time, with a sentence, a figure, and one button.

mod c;
mod entry;
mod learned;
mod loss;
mod overview;

use eframe::egui::containers::scroll_area::ScrollSource;
use eframe::egui::{
    self, Align, Button, CentralPanel, FontId, Hyperlink, Layout, Panel, Pos2, Rect, RichText,
    ScrollArea, Sense, Ui, Vec2, pos2, vec2,
};

use super::pictures::{Sheet, content_hash};
use super::style::{BLUE, GREEN, RED, readable, run_color};
use super::{bar, question, views};
use crate::batch::Batch;
use crate::experiments;
use crate::history::{self, describe, diagonal_and_rest};
use crate::lab::Lab;
use crate::page::Place;
use crate::run::Activity;
use crate::story::{FAILURES, Figure, STEPS, Step, step_of};
use crate::texts::{filled, number, percent, text};
use c::Emphasis;

/// The maximum width of the sentences, in sizes of their letters.
const LINE: f32 = 45.0;

/// The smallest size of a text's letters.
const SMALLEST: f32 = 15.0;

/// The width below which everything is smaller.
const NARROW: f32 = 560.0;

/// The shorter side of the screen from which on letters are larger.
const LARGE: f32 = 850.0;

/// The height below which the sentences are beside the figure, where there is room for both: a laptop at 200%.
const LOW: f32 = 540.0;

/// The logarithm of the factor from which on a gesture zooms: a fifth larger or smaller.
const GESTURE: f32 = 0.18;

/// The time in seconds without any zooming after which the next one is another gesture: the wheel's last turn is spread over 0.1 s.
const BETWEEN_GESTURES: f64 = 0.25;

/// A gesture that zooms: a pinch, or turns of the wheel with Ctrl.
#[derive(Default)]
struct Gesture {
    /// The logarithm of its factor so far.
    factor: f32,
    /// When it went on last, in seconds.
    at: f64,
    /// Whether it has zoomed: once is enough.
    is_done: bool,
}

/// How the story is drawn.
#[derive(Default)]
pub struct State {
    matrices: [c::Matrix; 2],
    /// Row and column of the entry of C that is looked at.
    selected: Option<(usize, usize)>,
    /// Whether C is zoomed into around it.
    is_zoomed: bool,
    gesture: Gesture,
    /// The dimension of the embedding that is looked at.
    dimension: usize,
    /// A picture and its two views.
    pair: Sheet,
    /// The pictures of the batch.
    batch: Sheet,
    pairs: views::Pairs,
    /// Of a history's inspection after a step: some of the pictures whose nearest neighbor became right by then, and how many there are.
    became: Option<((history::Id, usize), Vec<usize>, usize)>,
    /// Whether the visitor's system lets things move.
    moves: bool,
    /// How many times as large as in the laboratory the letters of questions are.
    scale: f32,
    /// Whether the sentences are beside the figure, which then must not be higher than its room.
    is_beside: bool,
}

impl State {
    /// Where in `area` the visitor zooms, and whether in; once for each gesture.
    fn zooming(&mut self, ui: &Ui, area: Rect) -> Option<(Pos2, bool)> {
        let (factor, time, touched, pointer) = ui.input(|input| {
            let touched = input.multi_touch().map(|touch| touch.center_pos);
            let pointer = input.pointer.hover_pos();
            (input.zoom_delta(), input.time, touched, pointer)
        });
        if factor == 1.0 {
            return None;
        }
        if time - self.gesture.at > BETWEEN_GESTURES {
            self.gesture = Gesture::default();
        }
        self.gesture.at = time;
        let at = match touched {
            Some(center) => Some(center).filter(|at| area.intersect(ui.clip_rect()).contains(*at)),
            None => pointer.filter(|_| ui.rect_contains_pointer(area)),
        };
        let at = at.filter(|_| !self.gesture.is_done)?;
        self.gesture.factor += factor.ln();
        self.gesture.is_done = self.gesture.factor.abs() >= GESTURE;
        self.gesture
            .is_done
            .then_some((at, self.gesture.factor > 0.0))
    }

    /// Goes to an entry of C, and zooms into it.
    fn zoom_into(&mut self, lab: &mut Lab, entry: (usize, usize)) {
        (self.selected, self.is_zoomed) = (Some(entry), true);
        lab.page.place = Place::Story(step_of(Figure::Entry));
    }
}

/// Draws the step of the story where the visitor is.
pub fn show(lab: &mut Lab, state: &mut State, sheet: &mut Sheet, ui: &mut Ui) {
    let Place::Story(number) = lab.page.place else {
        return;
    };
    let number = number.min(STEPS.len() - 1);
    let step = STEPS[number];
    state.moves = !crate::platform::wants_less_motion();
    let screen = ui.available_size();
    let sizes = letters(screen.min_elem());
    let is_beside = screen.x >= NARROW && screen.y < LOW;
    state.is_beside = is_beside;
    state.scale = sizes[1] / SMALLEST;
    Panel::top("story").show(ui, |ui| header(lab, number, ui));
    Panel::bottom("buttons").show(ui, |ui| footer(lab, number, !is_beside, ui));
    CentralPanel::default().show(ui, |ui| {
        if is_beside {
            ui.horizontal_top(|ui| {
                let width = 0.32 * ui.available_width();
                let size = vec2(width, ui.available_height());
                ui.allocate_ui_with_layout(size, Layout::top_down(Align::Min), |ui| {
                    scrolled(("words", number), ui).show(ui, |ui| {
                        sentences(step, sizes, ui);
                        ui.add_space(10.0);
                        ui.label(RichText::new(bar::status(lab)).small());
                        bar::advice(lab, ui);
                    });
                });
                ui.vertical(|ui| {
                    scrolled(("step", number), ui).show(ui, |ui| {
                        figure(lab, state, sheet, step.figure, ui);
                    });
                });
            });
            return;
        }
        scrolled(("step", number), ui).show(ui, |ui| {
            ui.vertical_centered(|ui| {
                ui.set_max_width((LINE * sizes[1]).min(ui.available_width()));
                sentences(step, sizes, ui);
            });
            ui.add_space(0.6 * sizes[1] - 2.0);
            figure(lab, state, sheet, step.figure, ui);
        });
    });
    keys(lab, number, ui);
}

/// Room that scrolls if it must, but not while two fingers zoom.
fn scrolled(id: (&str, usize), ui: &Ui) -> ScrollArea {
    let source = match ui.input(|input| input.multi_touch().is_some()) {
        true => ScrollSource::NONE,
        false => ScrollSource::default(),
    };
    ScrollArea::vertical()
        .id_salt(id)
        .scroll_source(source)
        .auto_shrink([false, false])
}

/// The sizes of the letters of a title and of a text, on a screen with that shorter side.
fn letters(shorter: f32) -> [f32; 2] {
    if shorter < NARROW {
        [20.0, SMALLEST]
    } else if shorter < LARGE {
        [26.0, 17.0]
    } else {
        [32.0, 20.0]
    }
}

/// The title and the text of a step.
fn sentences(step: Step, [title, body]: [f32; 2], ui: &mut Ui) {
    let heading = ui.label(RichText::new(text(step.title)).size(title).strong());
    heading.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Heading, true, text(step.title)));
    let color = ui.visuals().strong_text_color();
    ui.label(RichText::new(text(step.text)).size(body).color(color));
}

/// The arrow keys turn pages, unless a widget has the focus.
fn keys(lab: &mut Lab, number: usize, ui: &Ui) {
    if ui.memory(|memory| memory.focused().is_some()) {
        return;
    }
    let pressed = |key| ui.input(|input| input.key_pressed(key));
    if pressed(egui::Key::ArrowRight) && number + 1 < STEPS.len() {
        lab.page.place = Place::Story(number + 1);
    }
    if pressed(egui::Key::ArrowLeft) && number > 0 {
        lab.page.place = Place::Story(number - 1);
    }
}

fn figure(lab: &mut Lab, state: &mut State, sheet: &mut Sheet, figure: Figure, ui: &mut Ui) {
    if lab.runs.is_empty() {
        ui.label(text("status.loading"));
        return;
    }
    match figure {
        Figure::Overview => overview::show(lab, state, ui),
        Figure::Views => {
            ui.vertical_centered(|ui| {
                if ui.button(text("views.other")).clicked() {
                    state.pairs.redraw();
                }
            });
            ui.add_space(10.0);
            state.pairs.large(lab, ui);
        }
        Figure::Dimension => entry::dimension(lab, state, ui),
        Figure::Entry => entry::entry(lab, state, ui),
        Figure::Diagonal => loss::diagonal(lab, state, ui),
        Figure::Rest => loss::rest(lab, state, ui),
        Figure::Loss => loss::loss(lab, state, ui),
        Figure::Failures => failures(lab, state, ui),
        Figure::Learned => learned::show(lab, state, sheet, ui),
        Figure::Next => next(lab, ui),
    }
}

/// The top line: the name, the steps, and what changes how the page is shown.
fn header(lab: &mut Lab, number: usize, ui: &mut Ui) {
    ui.add_space(6.0);
    ui.horizontal(|ui| {
        let is_wide = ui.available_width() >= NARROW;
        if is_wide {
            ui.label(RichText::new(text("lab.name")).strong().size(16.0));
        }
        // Ten of them fit beside the buttons of a phone.
        let dot = if is_wide { 18.0 } else { 13.0 };
        if !is_wide {
            ui.spacing_mut().item_spacing.x = 3.0;
        }
        for (index, step) in STEPS.iter().enumerate() {
            let (place, response) = ui.allocate_exact_size(vec2(dot, 24.0), Sense::click());
            let name = format!("{}: {}", index + 1, text(step.title));
            response.widget_info(|| {
                egui::WidgetInfo::selected(egui::Role::Button, true, index == number, &name)
            });
            let visuals = ui.visuals();
            let color = match index == number {
                true => RED,
                false if response.hovered() || response.has_focus() => visuals.text_color(),
                false => ui.visuals().weak_text_color(),
            };
            let radius = if index == number {
                0.33 * dot
            } else {
                0.22 * dot
            };
            ui.painter().circle_filled(place.center(), radius, color);
            if response.on_hover_text(name).clicked() {
                lab.page.place = Place::Story(index);
            }
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            bar::look(lab, ui);
            if ui.button(text("nav.explore")).clicked() {
                lab.page.place = Place::Explore;
            }
        });
    });
    ui.add_space(4.0);
}

/// The bottom line: back, the button that trains, and on; with the status below, where there is room.
fn footer(lab: &mut Lab, number: usize, with_status: bool, ui: &mut Ui) {
    ui.add_space(6.0);
    bar::messages(lab, 1, ui);
    let width = ui.available_width();
    let size = |least: f32| vec2(least.min(0.22 * width), 38.0);
    ui.horizontal(|ui| {
        let back = Button::new(text("nav.back")).min_size(size(90.0));
        if ui.add_enabled(number > 0, back).clicked() {
            lab.page.place = Place::Story(number - 1);
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let is_last = number + 1 == STEPS.len();
            let next = Button::new(RichText::new(text("nav.next"))).min_size(size(90.0));
            if ui.add_enabled(!is_last, next).clicked() {
                lab.page.place = Place::Story(number + 1);
            }
            ui.with_layout(Layout::top_down(Align::Center), |ui| train(lab, number, ui));
        });
    });
    if with_status {
        let status = bar::status(lab);
        ui.horizontal(|ui| {
            ui.label(RichText::new(status).small());
            bar::advice(lab, ui);
        });
    }
    ui.add_space(4.0);
    if ui.input(|input| input.key_pressed(egui::Key::Space))
        && ui.memory(|memory| memory.focused().is_none())
        && !is_asked(lab, number)
        && (lab.is_playing() || !lab.returns_to_usual())
    {
        lab.toggle();
    }
}

/// Whether a question is on the page, and nothing trains: its answers are the buttons.
fn is_asked(lab: &Lab, number: usize) -> bool {
    let is_open = lab
        .asked
        .as_ref()
        .is_some_and(|asked| asked.predicted.is_none());
    is_open && STEPS[number].figure == Figure::Failures && !lab.is_playing()
}

/// The one button: trains, or pauses.
fn train(lab: &mut Lab, number: usize, ui: &mut Ui) {
    if is_asked(lab, number) {
        return;
    }
    let done = lab.runs.first().map_or(0, |run| run.history.steps.len());
    let key = if lab.is_playing() {
        "train.pause"
    } else if lab.returns_to_usual() {
        "train.usual"
    } else if lab.has_ended() {
        "train.again"
    } else if done > 0 {
        "train.on"
    } else {
        "train.start"
    };
    let is_first = key == "train.start";
    let words = RichText::new(text(key)).size(18.0).strong();
    let mut button = Button::new(match is_first {
        true => words.color(egui::Color32::WHITE),
        false => words,
    })
    .min_size(vec2(180.0f32.min(ui.available_width()), 38.0))
    .wrap();
    if is_first {
        button = button.fill(RED);
    }
    if ui.add(button).clicked() {
        if lab.is_playing() {
            lab.pause();
        } else {
            lab.train();
        }
    }
}

/// The numbers of C beside it: what they are, and where they should go.
fn numbers(lab: &Lab, area: Rect, ui: &Ui) {
    let Some(run) = lab.runs.first() else { return };
    let history = &run.history;
    if history.smoothed.is_empty() || area.width() < 90.0 {
        return;
    }
    let (diagonal, rest) = diagonal_and_rest(&history.smoothed, history.width);
    let score = history
        .inspections
        .last()
        .map(|inspection| inspection.score);
    let baseline = run
        .opened
        .as_ref()
        .and_then(|opened| opened.baseline.as_ref())
        .map(|baseline| baseline.pixels);
    let mut lines = vec![
        (
            "numbers.diagonal",
            number(diagonal, 2),
            text("numbers.diagonal.goal").to_owned(),
            RED,
        ),
        (
            "numbers.rest",
            number(rest, 2),
            text("numbers.rest.goal").to_owned(),
            BLUE,
        ),
    ];
    if let (Some(score), Some(pixels)) = (score, baseline) {
        let beside = filled("numbers.score.goal", &[("pixels", &percent(pixels))]);
        let name = run.data.as_ref().map_or("score.emoji", |data| data.score);
        lines.push((name, percent(score), beside, GREEN));
    }
    let painter = ui.painter();
    let color = ui.visuals().text_color();
    for (index, (name, value, goal, line_color)) in lines.into_iter().enumerate() {
        let top = area.top() + 92.0 * index as f32;
        let place = Rect::from_min_size(pos2(area.left(), top), vec2(area.width(), 74.0));
        let spoken = format!("{}: {value} ({goal})", text(name));
        let response = ui.interact(place, ui.scope_id().with(("number", index)), Sense::hover());
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &spoken));
        let mut at = pos2(area.left(), top);
        painter.rect_filled(
            Rect::from_min_size(at - vec2(10.0, 0.0), vec2(3.0, 74.0)),
            0.0,
            readable(line_color, ui.visuals().dark_mode),
        );
        for (words, size) in [(text(name).to_owned(), 13.0), (value, 24.0), (goal, 13.0)] {
            let galley = painter.layout(words, FontId::proportional(size), color, area.width());
            let height = galley.size().y;
            painter.galley(at, galley, color);
            at.y += height;
        }
    }
}

/// Fills the sheet of the batch's pictures, and returns the batch; `None`, and a text, as long as there is none.
fn fill_batch<'a>(lab: &'a mut Lab, state: &mut State, ui: &mut Ui) -> Option<&'a Batch> {
    let run = lab.runs.first_mut()?;
    run.want_embeddings();
    let (Some(data), Some(batch)) = (&run.data, &run.history.batch) else {
        let key = match run.activity {
            Activity::Failed => "status.stopped",
            _ => "status.starting",
        };
        ui.vertical_centered(|ui| ui.label(text(key)));
        return None;
    };
    let count = data.train.count();
    let is_whole = batch
        .pictures
        .iter()
        .all(|picture| (*picture as usize) < count);
    if !is_whole {
        return None;
    }
    let key = content_hash((&batch.pictures, count));
    state.batch.fill(ui.ctx(), key, || {
        data.train
            .subset(batch.pictures.iter().map(|picture| *picture as usize))
    });
    Some(batch)
}

/// The ways to fail: experiments to choose from, or the one that was chosen.
fn failures(lab: &mut Lab, state: &mut State, ui: &mut Ui) {
    let is_wide = ui.available_width() >= 900.0;
    if lab.asked.is_none() {
        ui.add_space(space_above(ui));
        ui.vertical_centered(|ui| {
            for name in FAILURES {
                let Some(experiment) = experiments::of_name(name) else {
                    continue;
                };
                let words = RichText::new(text(experiment.texts.action)).size(16.0);
                let width = ui.available_width().min(520.0);
                if ui
                    .add(Button::new(words).wrap().min_size(vec2(width, 44.0)))
                    .clicked()
                {
                    lab.ask(experiment);
                }
                ui.add_space(6.0);
            }
        });
        return;
    }
    let is_predicted = lab
        .asked
        .as_ref()
        .is_some_and(|asked| asked.predicted.is_some());
    if !is_predicted {
        // What is there are the runs before: nothing to predict from, and with the same experiment the answer itself.
        centered(ui, |ui| _ = question::show(lab, state.scale, ui));
        return;
    }
    if !is_wide {
        question::show(lab, state.scale, ui);
        matrices(lab, state, ui);
        return;
    }
    ui.horizontal_top(|ui| {
        ui.vertical(|ui| {
            ui.set_width(0.3 * ui.available_width());
            question::show(lab, state.scale, ui);
        });
        ui.add_space(16.0);
        ui.vertical(|ui| matrices(lab, state, ui));
    });
}

/// A column in the middle of the page.
fn centered(ui: &mut Ui, show: impl FnOnce(&mut Ui)) {
    const WIDTH: f32 = 560.0;
    ui.horizontal_top(|ui| {
        ui.add_space((0.5 * (ui.available_width() - WIDTH)).max(0.0));
        ui.vertical(|ui| {
            ui.set_max_width(WIDTH.min(ui.available_width()));
            show(ui);
        });
    });
}

/// The space above a few buttons, so that they are not at the top of a large and empty page.
fn space_above(ui: &Ui) -> f32 {
    const BUTTONS: f32 = 260.0;
    0.3 * (ui.available_height() - BUTTONS).max(0.0)
}

/// C of each run.
fn matrices(lab: &Lab, state: &mut State, ui: &mut Ui) {
    let count = lab.runs.len().max(1) as f32;
    let room = ui.available_size();
    let side = ((room.x - 24.0) / count - 12.0)
        .min(room.y - 40.0)
        .clamp(120.0, 480.0);
    ui.horizontal_top(|ui| {
        for (index, run) in lab.runs.iter().enumerate() {
            ui.vertical(|ui| {
                ui.set_width(side);
                if lab.runs.len() > 1 {
                    let key = ["run.a", "run.b"][index.min(1)];
                    let words = RichText::new(text(key)).strong();
                    ui.label(words.color(run_color(index.min(1), ui.visuals().dark_mode)));
                }
                let history = &run.history;
                let (area, response) = ui.allocate_exact_size(Vec2::splat(side), Sense::hover());
                let step = history.last.as_ref().map_or(0, |(step, _)| *step);
                state.matrices[index.min(1)].paint(
                    ui,
                    (area, c::whole()),
                    (&history.smoothed, history.width),
                    (Some(history.id), step, 0),
                    Emphasis::Whole,
                );
                let (diagonal, rest) = diagonal_and_rest(&history.smoothed, history.width);
                let words = describe(step, &history.smoothed, history.width);
                response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &words));
                // Afterwards there is a table, of C without smoothing.
                let is_told = lab
                    .asked
                    .as_ref()
                    .is_some_and(|asked| asked.outcome.is_some());
                if !history.smoothed.is_empty() && !is_told {
                    ui.label(filled(
                        "c.numbers",
                        &[
                            ("diagonal", &number(diagonal, 2)),
                            ("rest", &number(rest, 3)),
                        ],
                    ));
                }
            });
        }
    });
}

/// Where to go from here.
fn next(lab: &mut Lab, ui: &mut Ui) {
    ui.add_space(space_above(ui));
    ui.vertical_centered(|ui| {
        let width = ui.available_width().min(520.0);
        let wide = |key| {
            Button::new(RichText::new(text(key)).size(16.0))
                .wrap()
                .min_size(vec2(width, 44.0))
        };
        if ui.add(wide("next.explore")).clicked() {
            lab.page.place = Place::Explore;
        }
        ui.add_space(6.0);
        if ui.add(wide("next.again")).clicked() {
            lab.page.place = Place::Story(0);
        }
        ui.add_space(16.0);
        // In tabs of their own: this one trains.
        let link = |key, address: &str| {
            Hyperlink::from_label_and_url(text(key), address).open_in_new_tab(true)
        };
        if crate::platform::IS_WEB {
            let frame = Button::new(text("save.frame"));
            if ui.add(frame).clicked() {
                let story = crate::page::Page {
                    language: lab.page.language,
                    ..Default::default()
                };
                bar::copy_frame(lab, &story.fragment(), ui);
            }
            ui.add_space(6.0);
            ui.add(link("next.teach", text("next.teach.address")));
        }
        ui.add(link("next.paper", "https://arxiv.org/abs/2103.03230"));
    });
}
