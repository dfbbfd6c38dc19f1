//! The arrows between the modules of a crate: who imports whom. They must close no circle, neither between the top-level
//! modules of a crate nor between the modules of a folder. A folder's `mod.rs` and its files are one concept, so arrows
//! between these do not count; neither do tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::root;

/// The crates to check: their names and their folders of sources.
const CRATES: [(&str, &str); 5] = [
    ("barlow-core", "core/src"),
    ("barlow-formats", "formats/src"),
    ("barlow-lab", "web/src"),
    ("barlow", "native/src"),
    ("xtask", "xtask/src"),
];

/// A graph: for each module, the modules that it imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Prints the arrows between top-level modules, and fails if any arrows close a circle.
pub fn check() -> Result<()> {
    let mut circles = Vec::new();
    for (name, folder) in CRATES {
        let modules = modules(&root().join(folder))?;
        let arrows = arrows(&modules);
        println!("{name}");
        for (from, to) in between(&arrows, "") {
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            println!("  {from} -> {}", to.join(", "));
        }
        let folders = modules.keys().filter_map(|module| module.rsplit_once("::"));
        let folders: BTreeSet<&str> = folders.map(|(folder, _)| folder).chain([""]).collect();
        for folder in folders {
            if let Some(circle) = circle(&between(&arrows, folder)) {
                circles.push(format!("{name}, {folder}: {}", circle.join(" -> ")));
            }
        }
    }
    if !circles.is_empty() {
        bail!(
            "modules import each other in circles:\n{}",
            circles.join("\n")
        );
    }
    Ok(())
}

/// The modules below `folder` by their paths, with their sources without comments and tests.
fn modules(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, path)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?.path();
            let stem = entry
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            let inside = |name: &str| match path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}::{name}"),
            };
            if entry.is_dir() {
                folders.push((entry.clone(), inside(stem)));
            } else if entry.extension().is_some_and(|e| e == "rs") && stem != "tests" {
                let module = match stem {
                    "mod" | "lib" | "main" => path.clone(),
                    stem => inside(stem),
                };
                found.insert(module, without_tests(&fs::read_to_string(&entry)?));
            }
        }
    }
    Ok(found)
}

/// A source without its comments and its module of tests, which ends a file.
fn without_tests(source: &str) -> String {
    let end = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub mod tests"]
        .iter()
        .filter_map(|start| source.find(start))
        .min();
    let source = &source[..end.unwrap_or(source.len())];
    let lines = source.lines().map(|line| match line.find("//") {
        Some(comment) => &line[..comment],
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn arrows(modules: &BTreeMap<String, String>) -> Graph {
    let mut graph = Graph::new();
    for (module, source) in modules {
        for path in imports(source) {
            if let Some(target) = resolved(&path, module, modules) {
                graph.entry(module.clone()).or_default().insert(target);
            }
        }
    }
    graph
}

/// The paths that a source names: those of its `use` declarations, and those that start at `crate` or `super`.
fn imports(source: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find("use ") {
        let is_declaration = rest[..start]
            .rsplit('\n')
            .next()
            .is_some_and(|before| before.trim().is_empty() || before.trim().starts_with("pub"));
        rest = &rest[start + "use ".len()..];
        if is_declaration && let Some(end) = rest.find(';') {
            expand("", &rest[..end], &mut paths);
        }
    }
    for start in ["crate::", "super::"] {
        for (place, _) in source.match_indices(start) {
            let path: String = source[place..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_' || *c == ':')
                .collect();
            paths.push(path.trim_end_matches(':').to_owned());
        }
    }
    paths
}

/// Adds the paths of a tree of imports, such as `a::{b, c::d}`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((start, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{}", path.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", start.trim());
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut begin) = (0, 0);
    for (place, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[begin..place], paths);
                begin = place + 1;
            }
            _ => {}
        }
    }
    if !inner[begin..].trim().is_empty() {
        expand(&prefix, &inner[begin..], paths);
    }
}

/// The module that a path in `module` leads to, if it is one of the crate's.
fn resolved(path: &str, module: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let here: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut target: Vec<&str> = match parts.first().copied()? {
        "crate" => Vec::new(),
        "self" | "super" => here.clone(),
        first => {
            // Without a prefix, a path starts at a child or at another crate.
            let child = [&here[..], &[first]].concat().join("::");
            modules.contains_key(&child).then(|| here.clone())?
        }
    };
    while let Some(first) = parts.first().copied() {
        match first {
            "crate" | "self" => {}
            "super" => _ = target.pop(),
            _ => break,
        }
        parts.remove(0);
    }
    target.extend(parts);
    while !target.is_empty() && !modules.contains_key(&target.join("::")) {
        target.pop();
    }
    (!target.is_empty()).then(|| target.join("::"))
}

/// The arrows between the modules of a folder, each with all that lies below it.
fn between(arrows: &Graph, folder: &str) -> Graph {
    let child = |module: &str| -> Option<String> {
        let inside = match folder {
            "" => Some(module),
            folder => module.strip_prefix(folder)?.strip_prefix("::"),
        };
        let name = inside?.split("::").next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let mut graph = Graph::new();
    for (from, to) in arrows {
        for to in to {
            if let (Some(from), Some(to)) = (child(from), child(to))
                && from != to
            {
                graph.entry(from).or_default().insert(to);
            }
        }
    }
    graph
}

/// A circle of the graph, if there is one.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    /// Goes on from the last module of `path`; `done` leads to no circle.
    fn search(graph: &Graph, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let Some(last) = path.last().cloned() else {
            return false;
        };
        if done.contains(&last) {
            return false;
        }
        for next in graph.get(&last).into_iter().flatten() {
            let seen = path.contains(next);
            path.push(next.clone());
            if seen || search(graph, path, done) {
                return true;
            }
            path.pop();
        }
        done.insert(last);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| {
        let mut path = vec![start.clone()];
        search(graph, &mut path, &mut done).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(files: &[(&str, &str)]) -> Graph {
        let modules = files
            .iter()
            .map(|(name, source)| ((*name).to_owned(), without_tests(source)))
            .collect();
        arrows(&modules)
    }

    #[test]
    fn circles_between_modules_and_inside_folders_are_found() {
        let files = [
            ("a", "use crate::b::{self, C};\n"),
            ("b", "use crate::{c::D, d};\n// use crate::a;\n"),
            ("c", "#[cfg(test)]\nmod tests { use crate::a; }\n"),
            ("d", "fn f() { crate::e::g::h(); }\n"),
            ("e", ""),
            ("e::g", "use super::i::J;\nuse std::fs;\n"),
            ("e::i", "pub use super::g::k;\n"),
        ];
        let graph = graph_of(&files);
        let top = between(&graph, "");
        assert_eq!(
            top["b"].iter().map(String::as_str).collect::<Vec<_>>(),
            ["c", "d"]
        );
        assert_eq!(circle(&top), None);
        let inside = circle(&between(&graph, "e")).unwrap();
        assert_eq!(inside, ["g", "i", "g"]);
        let closed = [&files[..], &[("c", "use super::a::B;\n")]].concat();
        assert!(circle(&between(&graph_of(&closed), "")).is_some());
    }
}
