//! `barlow classify`: classifies pictures by a few labelled examples.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use barlow_core::evaluate::{Features, Gallery, Knn, LinearProbe, predicted};
use barlow_formats::Catalog;

use crate::cli::{Classify, Head};
use crate::data::{counted_parts, labels_of, open};
use crate::embed::{Encoder, Kind};
use crate::run_folder::write_file;

/// Parts of the labelled pictures that a linear head is tested on, one after the other.
const FOLDS: usize = 5;

/// Classifies pictures, and writes or prints their classes.
pub fn classify(arguments: &Classify) -> Result<()> {
    if let Some(path) = &arguments.to {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        ensure!(
            ending.as_deref() == Some("csv"),
            "--to {}: the name must end in .csv",
            path.display()
        );
    }
    let labelled = open(&arguments.labels)?;
    let members: Vec<usize> = (0..labelled.items.len()).collect();
    let examples_in = arguments.labels.display();
    let labels = labels_of(&labelled, &members).with_context(|| {
        format!(
            "--labels {examples_in}: expected a folder with a folder of pictures for each class"
        )
    })?;
    ensure!(
        labels.names.len() > 1,
        "--labels {examples_in}: there is only one class, {}: at least two are needed to tell pictures apart",
        labels.names[0]
    );
    let catalog = open(&arguments.path)?;
    let mut encoder = Encoder::open(&arguments.run, arguments.best, arguments.device)?;
    let kind = match arguments.head {
        Head::Knn => Kind::Compared,
        Head::Linear => Kind::Features,
    };
    let examples = encoder.encode(&labelled, &members, kind, |_, _| {})?;
    let class_of: Vec<usize> = examples
        .members
        .iter()
        .map(|member| labels.class_of[*member])
        .collect();
    let members: Vec<usize> = (0..catalog.items.len()).collect();
    let encoded = encoder.encode(&catalog, &members, kind, |_, _| {})?;
    let classes = labels.names.len();
    let (scores, checked) = match arguments.head {
        Head::Knn => {
            let neighbors = arguments.neighbors;
            let knn = Knn {
                neighbors,
                ..Knn::default()
            };
            // Of all pictures: there are more of them, and what varies among them is what tells them apart.
            let mut all = examples.vectors.clone();
            all.extend(encoded.vectors.clone());
            let preparation = encoder.preparation(&all);
            let prepared = |features: &Features| preparation.apply(features.clone());
            let center = prepared(&all).mean();
            let directions = |features: &Features| prepared(features).directions(&center);
            let (examples, pictures) =
                (directions(&examples.vectors), directions(&encoded.vectors));
            let accuracy = without_oneself(knn, &examples, &class_of);
            (
                knn_scores(knn, (&examples, &class_of), &pictures, classes),
                accuracy,
            )
        }
        Head::Linear => {
            let accuracy = cross_validated(&examples.vectors, &class_of, classes);
            let head = LinearProbe::default().fit(&examples.vectors, &class_of, classes);
            (head.probabilities(&encoded.vectors), accuracy)
        }
    };
    let rows: Vec<Row<'_>> = scores
        .chunks_exact(classes)
        .zip(&encoded.members)
        .map(|(scores, member)| {
            let numbered: Vec<(usize, f64)> = scores.iter().copied().enumerate().collect();
            let class = predicted(&numbered).unwrap_or(0);
            Row {
                name: &catalog.items[*member].name,
                class: &labels.names[class],
                confidence: scores[class],
                scores,
            }
        })
        .collect();
    match &arguments.to {
        Some(path) => write_csv(path, &labels.names, &rows)?,
        None => {
            for row in &rows {
                say!("{:.3}  {}  {}", row.confidence, row.class, row.name);
            }
        }
    }
    report(&labels.names, &rows, &catalog, &encoded.members);
    let how = match arguments.head {
        Head::Knn => "each by the others",
        Head::Linear => "each fifth of them by the rest",
    };
    match checked {
        Some(accuracy) => say!(
            "of the {} labelled pictures themselves, {:.1}% are classified correctly, {how}",
            class_of.len(),
            100.0 * accuracy
        ),
        None => say!(
            "{} labelled pictures are too few to say how many are classified correctly",
            class_of.len()
        ),
    }
    if let Some(path) = &arguments.to {
        say!("written to {}", path.display());
    }
    Ok(())
}

/// A picture's class.
struct Row<'a> {
    name: &'a str,
    class: &'a str,
    /// The score of that class, from 0 to 1.
    confidence: f64,
    /// Those of all classes, which add up to 1.
    scores: &'a [f64],
}

/// The classes' shares of the votes for each picture, row by row.
fn knn_scores(
    knn: Knn,
    (examples, class_of): (&Features, &[usize]),
    pictures: &Features,
    classes: usize,
) -> Vec<f64> {
    let mut gallery = Gallery::default();
    gallery.add(examples.clone());
    let votes = knn.votes((&gallery, class_of), pictures);
    let shares = votes.into_iter().flat_map(|votes| {
        let sum: f64 = votes.iter().map(|(_, vote)| vote).sum();
        let mut shares = vec![0.0; classes];
        for (class, vote) in votes {
            shares[class] = vote / sum;
        }
        shares
    });
    shares.collect()
}

/// The fraction of the examples that the others classify correctly.
fn without_oneself(knn: Knn, examples: &Features, class_of: &[usize]) -> Option<f64> {
    if class_of.len() < 2 {
        return None;
    }
    let mut gallery = Gallery::default();
    gallery.add(examples.clone());
    let nearest = gallery.nearest(examples, knn.neighbors + 1);
    let right = nearest.into_iter().enumerate().filter(|(own, nearest)| {
        let mut votes = vec![0.0; class_of.iter().max().map_or(0, |max| max + 1)];
        let others = nearest.iter().filter(|(_, other)| other != own);
        for (cosine, other) in others.take(knn.neighbors) {
            votes[class_of[*other]] += ((f64::from(*cosine) - 1.0) / knn.temperature).exp();
        }
        let votes: Vec<(usize, f64)> = votes.into_iter().enumerate().collect();
        predicted(&votes) == Some(class_of[*own])
    });
    Some(right.count() as f64 / class_of.len() as f64)
}

/// The fraction of the examples that a head classifies correctly which has learned from the other folds.
fn cross_validated(examples: &Features, class_of: &[usize], classes: usize) -> Option<f64> {
    if class_of.len() < 2 * FOLDS {
        return None;
    }
    let part = |fold: usize, inside: bool| {
        // Examples are sorted by class, so that every fold has some of each.
        let numbers = (0..class_of.len()).filter(move |i| (i % FOLDS == fold) == inside);
        let numbers: Vec<usize> = numbers.collect();
        let features = examples.subset(numbers.iter().copied());
        let class_of: Vec<usize> = numbers.iter().map(|i| class_of[*i]).collect();
        (features, class_of)
    };
    let right = (0..FOLDS).map(|fold| {
        let (train, train_classes) = part(fold, false);
        let (test, test_classes) = part(fold, true);
        let head = LinearProbe::default().fit(&train, &train_classes, classes);
        head.count_right(&test, &test_classes)
    });
    Some(right.sum::<usize>() as f64 / class_of.len() as f64)
}

/// Says how many pictures are of each class.
fn report(names: &[String], rows: &[Row<'_>], catalog: &Catalog, members: &[usize]) {
    let count = |name: &str| rows.iter().filter(|row| row.class == name).count();
    let counts = names.iter().map(|name| format!("{} {name}", count(name)));
    say!(
        "{}: {}",
        counted_parts(catalog, members),
        counts.collect::<Vec<_>>().join(", ")
    );
}

/// Writes a table with a row per picture: its name, its class, how sure that is, and the score of each class.
fn write_csv(path: &Path, names: &[String], rows: &[Row<'_>]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fixed = ["name", "class", "confidence"].map(str::to_owned);
    writer.write_record(fixed.iter().chain(names))?;
    for row in rows {
        let mut record = vec![row.name.to_owned(), row.class.to_owned()];
        let scores = std::iter::once(&row.confidence).chain(row.scores);
        record.extend(scores.map(|score| format!("{score:.4}")));
        writer.write_record(&record)?;
    }
    let bytes = writer.into_inner().context("cannot finish the table")?;
    write_file(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> (Features, Vec<usize>) {
        // Two directions, one per class; the last example is labelled wrongly.
        let rows = [
            [1.0, 0.1],
            [1.0, -0.1],
            [1.0, 0.0],
            [0.1, 1.0],
            [0.0, 1.0],
            [-0.1, 1.0],
            [1.0, 0.05],
        ];
        let class_of = vec![0, 0, 0, 1, 1, 1, 1];
        let features = Features::new(2, rows.concat());
        (features.directions(&[0.0, 0.0]), class_of)
    }

    #[test]
    fn examples_are_checked_by_the_others_only() {
        let (features, class_of) = examples();
        let knn = Knn {
            neighbors: 3,
            ..Knn::default()
        };
        // By itself, the last one would be right.
        assert_eq!(without_oneself(knn, &features, &class_of), Some(6.0 / 7.0));
    }

    #[test]
    fn shares_of_votes_add_up_to_1() {
        let (features, class_of) = examples();
        let pictures = Features::new(2, vec![0.0, 1.0, 1.0, 0.0]);
        let scores = knn_scores(Knn::default(), (&features, &class_of), &pictures, 3);
        assert_eq!(scores.len(), 6);
        for scores in scores.chunks_exact(3) {
            assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert_eq!(scores[2], 0.0);
        }
        assert!(scores[1] > 0.99 && scores[3] > 0.5, "{scores:?}");
    }
}
