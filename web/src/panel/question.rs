//! An experiment's card: the question, the answers to choose from, and afterwards what happened.

use eframe::egui::{Button, ProgressBar, RichText, Ui};

use super::style::{GREEN, OCHER, readable, run_color};
use crate::experiments::Experiment;
use crate::lab::{Asked, Lab, Outcome};
use crate::texts::{filled, number, percent, text};

/// Draws the card of the experiment that was chosen, with letters as many times as large as usual. Returns whether there is one.
pub fn show(lab: &mut Lab, scale: f32, ui: &mut Ui) -> bool {
    let Some(asked) = lab.asked.clone() else {
        return false;
    };
    ui.scope(|ui| {
        let letters = ui.style_mut().text_styles.values_mut();
        letters.for_each(|font| font.size *= scale);
        card(lab, &asked, scale, ui);
    });
    true
}

fn card(lab: &mut Lab, asked: &Asked, scale: f32, ui: &mut Ui) {
    let texts = &asked.experiment.texts;
    ui.label(RichText::new(text(texts.action)).strong());
    if let Some(sides) = sides(asked.experiment) {
        ui.label(text(sides));
    }
    ui.add_space(4.0);
    ui.label(RichText::new(text(texts.ask)).size(16.0 * scale));
    match (&asked.predicted, &asked.outcome) {
        (None, _) => answers(lab, asked, scale, ui),
        (Some(_), None) => progress(lab, asked, ui),
        (Some(predicted), Some(outcome)) => {
            let data = lab.runs.first().and_then(|run| run.data.as_ref());
            let score = data.map_or("score.emoji", |data| data.score);
            result(asked, *predicted, (outcome, score), scale, ui);
        }
    }
    ui.add_space(4.0);
    ui.horizontal_wrapped(|ui| {
        if asked.outcome.is_some() && ui.button(text("question.again")).clicked() {
            lab.ask(asked.experiment);
        }
        if ui.button(text("question.leave")).clicked() {
            lab.leave_experiment();
        }
    });
}

/// The key of a line that says which run is which, if there are two.
fn sides(experiment: &Experiment) -> Option<&'static str> {
    let beside = experiment.beside?;
    // What both runs share is not what the experiment changes.
    let is_usual = experiment.set.iter().all(|pair| beside.contains(pair));
    Some(match is_usual {
        true => "question.sides.usual",
        false => "question.sides.two",
    })
}

fn answers(lab: &mut Lab, asked: &Asked, scale: f32, ui: &mut Ui) {
    ui.label(text("question.predict"));
    for (index, answer) in asked.experiment.texts.answers.iter().enumerate() {
        let button = Button::new(RichText::new(text(answer)).size(15.0 * scale)).wrap();
        if ui
            .add(button.min_size([160.0, 34.0 * scale].into()))
            .clicked()
        {
            lab.predict(index);
        }
    }
}

fn progress(lab: &Lab, asked: &Asked, ui: &mut Ui) {
    let steps = asked.experiment.steps;
    let done = lab
        .runs
        .iter()
        .map(|run| run.history.steps.len())
        .min()
        .unwrap_or(0);
    let words = filled(
        "question.progress",
        &[("done", &done.to_string()), ("steps", &steps.to_string())],
    );
    let fraction = done as f32 / steps.max(1) as f32;
    ui.add(ProgressBar::new(fraction).text(words));
    if let Some(predicted) = asked.predicted {
        let answer = text(asked.experiment.texts.answers[predicted]);
        ui.label(filled("question.predicted", &[("answer", answer)]));
    }
}

fn result(
    asked: &Asked,
    predicted: usize,
    (outcome, score): (&Outcome, &'static str),
    scale: f32,
    ui: &mut Ui,
) {
    let texts = &asked.experiment.texts;
    let color = match predicted == outcome.answer {
        true => GREEN,
        false => OCHER,
    };
    ui.label(
        RichText::new(asked.told().unwrap_or_default())
            .strong()
            .size(16.0 * scale)
            .color(readable(color, ui.visuals().dark_mode)),
    );
    numbers(outcome, score, ui);
    // The text explains what is expected; another outcome is told as it is.
    let explained = match outcome.answer == asked.experiment.expected {
        true => texts.seen,
        false => "question.unexpected",
    };
    ui.label(text(explained));
}

/// The numbers of each run, in a table.
fn numbers(outcome: &Outcome, score: &'static str, ui: &mut Ui) {
    eframe::egui::Grid::new("readings")
        .spacing([18.0, 2.0])
        .show(ui, |ui| {
            let several = outcome.readings.len() > 1;
            if several {
                ui.label("");
                for (index, key) in ["run.a", "run.b"].into_iter().enumerate() {
                    ui.label(
                        RichText::new(text(key))
                            .strong()
                            .color(run_color(index, ui.visuals().dark_mode)),
                    );
                }
                ui.end_row();
            }
            let mut row = |key: &'static str, of: &dyn Fn(usize) -> String| {
                ui.label(text(key));
                for run in 0..outcome.readings.len() {
                    ui.label(of(run));
                }
                ui.end_row();
            };
            let readings = &outcome.readings;
            row("reading.diagonal", &|run| number(readings[run].diagonal, 2));
            row("reading.rest", &|run| number(readings[run].off_diagonal, 3));
            row("reading.loss", &|run| number(readings[run].loss, 1));
            row("reading.rank", &|run| number(readings[run].rank, 1));
            row(score, &|run| percent(readings[run].score));
            row("reading.pixels", &|run| percent(readings[run].pixels));
        });
}
