//! The course: eight short lessons, each with experiments.

/// A lesson.
#[derive(Debug, Clone, Copy)]
pub struct Lesson {
    /// The key of its title.
    pub title: &'static str,
    /// The keys of its paragraphs.
    pub text: &'static [&'static str],
    /// The names of its experiments.
    pub experiments: &'static [&'static str],
}

/// All lessons, in order.
pub const LESSONS: [Lesson; 8] = [
    Lesson {
        title: "lesson.views.title",
        text: &["lesson.views.1", "lesson.views.2"],
        experiments: &["usual", "strong-views"],
    },
    Lesson {
        title: "lesson.c.title",
        text: &["lesson.c.1", "lesson.c.2", "lesson.c.3"],
        experiments: &["first-step"],
    },
    Lesson {
        title: "lesson.collapse.title",
        text: &["lesson.collapse.1", "lesson.collapse.2"],
        experiments: &["invariance", "redundancy", "unnormalized"],
    },
    Lesson {
        title: "lesson.alterations.title",
        text: &["lesson.alterations.1", "lesson.alterations.2"],
        experiments: &["no-alterations", "no-color"],
    },
    Lesson {
        title: "lesson.lambda.title",
        text: &["lesson.lambda.1", "lesson.lambda.2"],
        experiments: &["lambda"],
    },
    Lesson {
        title: "lesson.batch.title",
        text: &["lesson.batch.1", "lesson.batch.2"],
        experiments: &["batch", "info-nce"],
    },
    Lesson {
        title: "lesson.projector.title",
        text: &["lesson.projector.1", "lesson.projector.2"],
        experiments: &["projector"],
    },
    Lesson {
        title: "lesson.features.title",
        text: &["lesson.features.1", "lesson.features.2"],
        experiments: &["clothes", "width"],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::experiments::{EXPERIMENTS, of_name};

    #[test]
    fn lessons_have_all_experiments() {
        let used: BTreeSet<&str> = LESSONS
            .iter()
            .flat_map(|lesson| lesson.experiments)
            .copied()
            .collect();
        assert!(used.iter().all(|name| of_name(name).is_some()));
        assert_eq!(used.len(), EXPERIMENTS.len());
        assert!(
            crate::story::FAILURES
                .iter()
                .all(|name| used.contains(name))
        );
    }
}
