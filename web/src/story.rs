//! The story: what Barlow Twins does, in steps from the whole to a single entry of C and back.

/// What a step shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// A picture, its two views, the network, and C.
    Overview,
    /// Pairs of views.
    Views,
    /// The pictures of a batch by one dimension of their embeddings.
    Dimension,
    /// An entry of C: the scatter plot behind it, and its formula.
    Entry,
    /// C's diagonal.
    Diagonal,
    /// C's entries off the diagonal.
    Rest,
    /// The loss and its two terms.
    Loss,
    /// Experiments in which something goes wrong.
    Failures,
    /// Neighbors before and after training.
    Learned,
    /// Where to go from here.
    Next,
}

/// A step of the story.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The key of its title.
    pub title: &'static str,
    /// The key of its one or two sentences.
    pub text: &'static str,
    /// What it shows.
    pub figure: Figure,
}

/// All steps, in order.
pub const STEPS: [Step; 10] = [
    step(
        "story.overview.title",
        "story.overview.text",
        Figure::Overview,
    ),
    step("story.views.title", "story.views.text", Figure::Views),
    step(
        "story.dimension.title",
        "story.dimension.text",
        Figure::Dimension,
    ),
    step("story.entry.title", "story.entry.text", Figure::Entry),
    step(
        "story.diagonal.title",
        "story.diagonal.text",
        Figure::Diagonal,
    ),
    step("story.rest.title", "story.rest.text", Figure::Rest),
    step("story.loss.title", "story.loss.text", Figure::Loss),
    step(
        "story.failures.title",
        "story.failures.text",
        Figure::Failures,
    ),
    step("story.learned.title", "story.learned.text", Figure::Learned),
    step("story.next.title", "story.next.text", Figure::Next),
];

const fn step(title: &'static str, text: &'static str, figure: Figure) -> Step {
    Step {
        title,
        text,
        figure,
    }
}

/// The step that shows that figure.
pub fn step_of(figure: Figure) -> usize {
    STEPS
        .iter()
        .position(|step| step.figure == figure)
        .unwrap_or(0)
}

/// The experiments of [`Figure::Failures`]: what is taken away, and how training fails without it.
pub const FAILURES: [&str; 4] = ["invariance", "redundancy", "no-alterations", "unnormalized"];
