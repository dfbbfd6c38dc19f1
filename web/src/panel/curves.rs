//! Plots of the runs' metrics over their steps.

use eframe::egui::{Color32, Ui};
use egui_plot::{HLine, Line, LineStyle, PlotPoints, Points};

use super::plot;
use super::style::{BLUE, GRAY, GREEN, OCHER, RED, readable, run_color};
use crate::run::PanelRun;
use crate::texts::{number, percent, text};

/// The maximum number of points per curve: more cannot be distinguished.
const POINTS: usize = 300;

/// The height of a plot.
const HEIGHT: f32 = 170.0;

/// A curve of a plot.
struct Curve {
    name: String,
    color: Color32,
    style: LineStyle,
    points: Vec<[f64; 2]>,
}

/// Draws the plots: the score, the loss and its terms, C's mean diagonal and off-diagonal RMS, and the effective rank.
pub fn show(ui: &mut Ui, runs: &[PanelRun]) {
    let is_dark = ui.visuals().dark_mode;
    let shade = |color| readable(color, is_dark);
    let mut losses = Vec::new();
    let mut of_matrix = Vec::new();
    let mut ranks = Vec::new();
    let mut scores = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let which = if runs.len() > 1 {
            ["A: ", "B: "][index]
        } else {
            ""
        };
        // One run: a color per quantity. Two runs: a color per run, and a line style per quantity.
        let look = |color: Color32, style: LineStyle| {
            if runs.len() > 1 {
                (run_color(index, is_dark), style)
            } else {
                (shade(color), LineStyle::Solid)
            }
        };
        let redundancy = &run.history.redundancy;
        let steps = &run.history.steps;
        let add = |plot: &mut Vec<Curve>,
                   name: &str,
                   (color, style): (Color32, LineStyle),
                   value: &dyn Fn(usize) -> f64| {
            plot.push(Curve {
                name: format!("{which}{name}"),
                color,
                style,
                points: thinned(steps.len(), |i| [steps[i].step as f64, value(i)]),
            });
        };
        let log = |x: f64| x.max(1e-6).log10();
        add(
            &mut losses,
            text("curves.loss"),
            look(GRAY, LineStyle::Solid),
            &|i| log(steps[i].loss),
        );
        add(
            &mut losses,
            text("curves.invariance"),
            look(RED, LineStyle::dashed_dense()),
            &|i| log(steps[i].invariance),
        );
        add(
            &mut losses,
            text("curves.redundancy"),
            look(BLUE, LineStyle::dotted_dense()),
            &|i| log(redundancy[i]),
        );
        add(
            &mut of_matrix,
            text("curves.diagonal"),
            look(RED, LineStyle::Solid),
            &|i| steps[i].diagonal,
        );
        add(
            &mut of_matrix,
            text("curves.rest"),
            look(BLUE, LineStyle::dashed_dense()),
            &|i| steps[i].off_diagonal,
        );
        let inspections = &run.history.inspections;
        let color = if runs.len() > 1 {
            run_color(index, is_dark)
        } else {
            shade(GREEN)
        };
        let inspection = |plot: &mut Vec<Curve>, name: &str, value: &dyn Fn(usize) -> f64| {
            plot.push(Curve {
                name: format!("{which}{name}"),
                color,
                style: LineStyle::Solid,
                points: thinned(inspections.len(), |i| {
                    [inspections[i].step as f64, value(i)]
                }),
            });
        };
        inspection(&mut ranks, text("curves.rank"), &|i| inspections[i].rank);
        inspection(&mut scores, text("curves.learned"), &|i| {
            100.0 * inspections[i].score
        });
    }
    let opened = runs.first().and_then(|run| run.opened.as_ref());
    let baseline = opened.and_then(|opened| opened.baseline.as_ref());
    let measure = runs
        .first()
        .and_then(|run| run.data.as_ref())
        .map_or("", |data| text(data.measure));
    let baselines = baseline.map_or_else(Vec::new, |baseline| {
        vec![
            (
                text("learned.pixels"),
                100.0 * baseline.pixels,
                shade(OCHER),
            ),
            (
                text("learned.untrained"),
                100.0 * baseline.untrained,
                shade(GRAY),
            ),
        ]
    });
    let now = runs
        .iter()
        .filter_map(|run| run.history.inspections.last())
        .map(|inspection| percent(inspection.score));
    let now: Vec<String> = now.collect();
    let id = eframe::egui::Id::unique("which curve");
    let mut which = ui.data(|data| data.get_temp(id).unwrap_or(0usize));
    ui.horizontal_wrapped(|ui| {
        for (index, key) in ["curves.score", "curves.loss", "curves.c", "curves.rank"]
            .into_iter()
            .enumerate()
        {
            ui.selectable_value(&mut which, index, text(key));
        }
    });
    ui.data_mut(|data| data.insert_temp(id, which));
    match which {
        0 => plot(
            ui,
            &format!("{}: {measure}", now.join(" | ")),
            "score",
            scores,
            &baselines,
            Scale::Percent,
        ),
        1 => plot(
            ui,
            text("curves.loss.title"),
            "loss",
            losses,
            &[],
            Scale::Logarithmic,
        ),
        2 => plot(
            ui,
            text("curves.c.title"),
            "matrix",
            of_matrix,
            &[],
            Scale::Plain,
        ),
        _ => plot(
            ui,
            text("curves.rank.title"),
            "rank",
            ranks,
            &[],
            Scale::Plain,
        ),
    }
}

/// At most [`POINTS`] evenly spaced points of `count`, plus the last one if it is not among them.
pub(super) fn thinned(count: usize, point: impl Fn(usize) -> [f64; 2]) -> Vec<[f64; 2]> {
    let every = count.div_ceil(POINTS).max(1);
    let mut points: Vec<[f64; 2]> = (0..count).step_by(every).map(&point).collect();
    if every > 1 && count % every != 1 {
        points.push(point(count - 1));
    }
    points
}

/// How values are written.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// As they are.
    Plain,
    /// As percent, which they are already.
    Percent,
    /// They are logarithms.
    Logarithmic,
}

/// A value that does not change, with its name and its color.
type Baseline = (&'static str, f64, Color32);

fn plot(
    ui: &mut Ui,
    title: &str,
    id: &str,
    curves: Vec<Curve>,
    baselines: &[Baseline],
    scale: Scale,
) {
    ui.label(title);
    let dashed = LineStyle::dashed_loose();
    let of_curves = curves
        .iter()
        .map(|curve| (&*curve.name, curve.color, curve.style));
    let of_baselines = baselines
        .iter()
        .map(|(name, _, color)| (*name, *color, dashed));
    plot::legend(ui, of_curves.chain(of_baselines));
    let value = move |value: f64| match scale {
        Scale::Logarithmic => number(10f64.powf(value), 3),
        Scale::Percent => percent(value / 100.0),
        Scale::Plain => number(value, 2),
    };
    let tick = move |value: f64| match scale {
        Scale::Logarithmic => {
            let value = 10f64.powf(value);
            let digits = match value {
                10.0.. => 0,
                1.0.. => 1,
                _ => 2,
            };
            number(value, digits)
        }
        Scale::Percent => percent(value / 100.0),
        Scale::Plain => plot::tick(value),
    };
    let plot = plot::over_steps(id, HEIGHT, value, tick);
    let plot = match scale {
        Scale::Logarithmic => plot.y_grid_spacer(plot::half_decades),
        Scale::Percent => plot.include_y(0.0).y_grid_spacer(plot::whole_numbers),
        Scale::Plain => plot.include_y(0.0),
    };
    plot.show(ui, |ui| {
        for (name, value, color) in baselines {
            ui.hline(HLine::new(*name, *value).color(*color).style(dashed));
        }
        for curve in curves {
            // A line of one point would not be seen.
            if let [point] = curve.points[..] {
                let dot = Points::new(curve.name, vec![point]);
                ui.points(dot.color(curve.color).radius(2.0 * plot::LINE));
                continue;
            }
            ui.line(
                Line::new(curve.name, PlotPoints::from(curve.points))
                    .color(curve.color)
                    .style(curve.style)
                    .width(plot::LINE),
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_point_is_always_drawn() {
        for count in [0, 1, 2, 299, 300, 301, 599, 601, 10_000] {
            let points = thinned(count, |i| [i as f64, 0.0]);
            assert!(points.len() <= POINTS + 1);
            assert_eq!(points.last().map_or(0, |p| p[0] as usize + 1), count);
            assert!(
                points.windows(2).all(|pair| pair[0][0] < pair[1][0]),
                "{count}"
            );
        }
    }
}
