//! Draws `curves.svg`: the curves of a run's metrics.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (960, 900);

/// Curves with fewer points than this get a marker at each point: a single point draws no line.
const FEW_POINTS: usize = 30;

/// A curve of the chart.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws the loss and its terms, the diagonal and off-diagonal of C, and the evaluations, against epochs.
///
/// # Errors
/// If the drawing fails.
pub fn curves(metrics: &[Value], lambda: f64) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
        let steps: Vec<&Value> = metrics.iter().filter(|m| m["event"] == "step").collect();
        let curve = |name: &str, key: &str, scale: f64| Curve {
            name: name.into(),
            points: steps
                .iter()
                .filter_map(|m| Some((m["epochs"].as_f64()?, scale * m[key].as_f64()?)))
                .collect(),
        };
        let loss = [
            curve("loss", "loss", 1.0),
            curve("invariance", "invariance", 1.0),
            curve(&format!("{lambda} x redundancy"), "redundancy", lambda),
        ];
        let matrix = [
            curve("mean diagonal of C", "diagonal", 1.0),
            curve("off-diagonal RMS of C", "off_diagonal", 1.0),
        ];
        let mut measured: Vec<Curve> = Vec::new();
        for line in metrics.iter().filter(|m| m["event"] == "evaluation") {
            // Older runs called them figures.
            let metrics = line["metrics"].as_array().or(line["figures"].as_array());
            for metric in metrics.into_iter().flatten() {
                let Some(name) = metric["name"].as_str() else {
                    continue;
                };
                let Some((epoch, value)) = line["epoch"].as_f64().zip(metric["value"].as_f64())
                else {
                    continue;
                };
                let point = (epoch, value);
                match measured.iter_mut().find(|c| c.name == name) {
                    Some(curve) => curve.points.push(point),
                    None => measured.push(Curve {
                        name: name.into(),
                        points: vec![point],
                    }),
                }
            }
        }
        let parts = root.split_evenly((3, 1));
        panel(&parts[0], "loss", &loss)?;
        panel(&parts[1], "cross-correlation", &matrix)?;
        panel(&parts[2], "top-1 accuracy", &measured)?;
        root.present().map_err(|e| anyhow!("{e}"))?;
    }
    Ok(svg)
}

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, curves: &[Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|c| &c.points);
    let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
    let last = highest(&mut points().map(|p| p.0));
    let top = 1.05 * highest(&mut points().map(|p| p.1).filter(|y| y.is_finite()));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last, 0.0..top)
        .map_err(|e| anyhow!("{e}"))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("epoch")
        .y_desc(title)
        .draw()
        .map_err(|e| anyhow!("{e}"))?;
    for (i, curve) in curves.iter().enumerate() {
        let [r, g, b] = colorous::DARK2[i % colorous::DARK2.len()].as_array();
        let style = RGBColor(r, g, b).stroke_width(2);
        let points = || curve.points.iter().copied();
        if curve.points.len() < FEW_POINTS {
            chart
                .draw_series(points().map(|point| Circle::new(point, 3, style.filled())))
                .map_err(|e| anyhow!("{e}"))?;
        }
        chart
            .draw_series(LineSeries::new(points(), style))
            .map_err(|e| anyhow!("{e}"))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if !curves.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|e| anyhow!("{e}"))?;
    }
    Ok(())
}
