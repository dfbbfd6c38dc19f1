//! Expands the directives of a kernel's source, and sets its constants.
//!
//! A line that begins with `//#` is a directive: `//# if CONDITION`, `//# else`, `//# for i in COUNT` and `//# end`. The
//! condition and the count are expressions of the file's `const`s. In a loop's body `#i` stands for the variable's value,
//! and `#(2 * i + 1)` for that of an expression; `#NAME` stands for a constant's value anywhere. `@binding(next)` is the
//! binding after the last one, so that a variant can leave bindings out. The lines from `//# part NAME` to its end are left
//! out where they are, and expanded at every `//# insert NAME`. Kernels also insert the files of `parts/`: what several kernels
//! have, and the epilogue of the longest one.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The WGSL text of a kernel's variant: `source` with the given values of its constants, and its directives expanded.
///
/// # Panics
/// If the source has no constant of a given name, or a directive is wrong.
pub fn expand(source: &str, constants: &[(&str, String)]) -> String {
    let mut text = source.to_owned();
    for (name, value) in constants {
        let range = declaration(&text, name);
        let range = range.unwrap_or_else(|| panic!("the kernel has no constant {name}"));
        text.replace_range(range, value);
    }
    if !text.contains("//#") {
        return text;
    }
    let lines: Vec<&str> = text.lines().collect();
    let template = Template { text: &text };
    let mut output = String::new();
    let end = template.block(&lines, 0, &mut BTreeMap::new(), Some(&mut output));
    assert_eq!(end, lines.len(), "an end without its beginning");
    number_bindings(&output)
}

/// Where the value of the constant `name` is in the text.
fn declaration(text: &str, name: &str) -> Option<core::ops::Range<usize>> {
    let start = text.find(&format!("\nconst {name}: "))?;
    let equals = start + text[start..].find("= ")? + 2;
    Some(equals..equals + text[equals..].find(';')?)
}

fn number_bindings(text: &str) -> String {
    let mut parts = text.split("@binding(next)");
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (number, part) in parts.enumerate() {
        numbered += &format!("@binding({number}){part}");
    }
    numbered
}

struct Template<'a> {
    text: &'a str,
}

/// The parts that are files of their own.
pub const PARTS: &[(&str, &str)] = &[
    ("augmentation", include_str!("parts/augmentation.wgsl")),
    ("begin_column", include_str!("parts/begin_column.wgsl")),
    ("limited", include_str!("parts/limited.wgsl")),
    (
        "product_bindings",
        include_str!("parts/product_bindings.wgsl"),
    ),
    ("product_sizes", include_str!("parts/product_sizes.wgsl")),
    ("relu", include_str!("parts/relu.wgsl")),
    ("store", include_str!("parts/store.wgsl")),
    ("stored", include_str!("parts/stored.wgsl")),
    ("stored_product", include_str!("parts/stored_product.wgsl")),
    ("total", include_str!("parts/total.wgsl")),
];

fn shared(name: &str) -> &'static str {
    let part = PARTS.iter().find(|(known, _)| *known == name);
    part.unwrap_or_else(|| panic!("there is no part {name}")).1
}

type Variables = BTreeMap<String, u64>;

impl Template<'_> {
    /// Expands the lines from `at` to the directive that ends their block, or only finds it if there is no output. Returns
    /// the index of that directive.
    fn block(
        &self,
        lines: &[&str],
        mut at: usize,
        variables: &mut Variables,
        mut output: Option<&mut String>,
    ) -> usize {
        while at < lines.len() {
            let Some(directive) = lines[at].trim_start().strip_prefix("//# ") else {
                if let Some(output) = output.as_deref_mut() {
                    *output += &self.line(lines[at], variables);
                    output.push('\n');
                }
                at += 1;
                continue;
            };
            if directive == "end" || directive == "else" {
                return at;
            }
            let body = at + 1;
            if let Some(condition) = directive.strip_prefix("if ") {
                let holds = output.is_some() && self.value(condition, variables) != 0;
                at = self.block(
                    lines,
                    body,
                    variables,
                    output.as_deref_mut().filter(|_| holds),
                );
                if lines.get(at).map(|line| line.trim()) == Some("//# else") {
                    let otherwise = output.as_deref_mut().filter(|_| !holds);
                    at = self.block(lines, at + 1, variables, otherwise);
                }
            } else if let Some((variable, count)) = directive
                .strip_prefix("for ")
                .and_then(|rest| rest.split_once(" in "))
            {
                let count = match &output {
                    Some(_) => self.value(count, variables),
                    None => 0,
                };
                for value in 0..count {
                    variables.insert(variable.to_owned(), value);
                    self.block(lines, body, variables, output.as_deref_mut());
                }
                variables.remove(variable);
                at = self.block(lines, body, variables, None);
            } else if let Some(name) = directive.strip_prefix("insert ") {
                if output.is_some() {
                    let part = format!("//# part {name}");
                    match lines.iter().position(|line| *line == part) {
                        Some(first) => {
                            self.block(lines, first + 1, variables, output.as_deref_mut());
                        }
                        None => {
                            let file: Vec<&str> = shared(name).lines().collect();
                            self.block(&file, 0, variables, output.as_deref_mut());
                        }
                    }
                }
                at += 1;
                continue;
            } else if directive.starts_with("part ") {
                at = self.block(lines, body, variables, None);
            } else {
                panic!("unknown directive: {}", lines[at]);
            }
            assert_eq!(
                lines.get(at).map(|line| line.trim()),
                Some("//# end"),
                "line {body} has no end"
            );
            at += 1;
        }
        at
    }

    /// A line with its placeholders replaced.
    fn line(&self, line: &str, variables: &Variables) -> String {
        let mut parts = line.split('#');
        let mut output = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let length = match part.strip_prefix('(') {
                Some(_) => {
                    part.find(')')
                        .expect("a placeholder's parenthesis is closed")
                        + 1
                }
                None if part.starts_with(|c: char| c.is_ascii_uppercase()) => {
                    let name = |c: char| c.is_ascii_uppercase() || c == '_';
                    part.find(|c| !name(c)).unwrap_or(part.len())
                }
                None => 1,
            };
            output += &self.value(&part[..length], variables).to_string();
            output += &part[length..];
        }
        output
    }

    /// The value of an expression: a number, or 0 or 1 for a truth value.
    fn value(&self, expression: &str, variables: &Variables) -> u64 {
        let mut parser = Parser {
            template: self,
            variables,
            rest: expression,
        };
        let value = parser.binary(0);
        assert!(
            parser.rest.trim().is_empty(),
            "not an expression: {expression}"
        );
        value
    }
}

struct Parser<'a> {
    template: &'a Template<'a>,
    variables: &'a Variables,
    rest: &'a str,
}

/// The operators by ascending precedence.
const OPERATORS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["==", "!="],
    &["+", "-"],
    &["*", "/", "%"],
];

impl<'a> Parser<'a> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn binary(&mut self, level: usize) -> u64 {
        let Some(operators) = OPERATORS.get(level) else {
            return self.operand();
        };
        let mut left = self.binary(level + 1);
        while let Some(operator) = operators.iter().find(|operator| self.take(operator)) {
            let right = self.binary(level + 1);
            left = match *operator {
                "||" => left | right,
                "&&" => left & right,
                "==" => u64::from(left == right),
                "!=" => u64::from(left != right),
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                "/" => left / right,
                _ => left % right,
            };
        }
        left
    }

    fn operand(&mut self) -> u64 {
        if self.take("!") {
            return u64::from(self.operand() == 0);
        }
        if self.take("(") {
            let value = self.binary(0);
            assert!(self.take(")"), "a parenthesis is not closed");
            return value;
        }
        let rest = self.rest.trim_start();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (token, rest) = rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()));
        self.rest = rest;
        if let Ok(number) = token.trim_end_matches('u').parse() {
            return number;
        }
        if let Some(value) = self.variables.get(token) {
            return *value;
        }
        match token {
            "true" => 1,
            "false" => 0,
            "select" => {
                assert!(self.take("("), "select has arguments");
                let otherwise = self.binary(0);
                assert!(self.take(","), "select has three arguments");
                let value = self.binary(0);
                assert!(self.take(","), "select has three arguments");
                let condition = self.binary(0);
                assert!(self.take(")"), "a parenthesis is not closed");
                if condition == 0 { otherwise } else { value }
            }
            _ => {
                let range = declaration(self.template.text, token);
                let range = range.unwrap_or_else(|| panic!("the kernel has no constant {token}"));
                self.template
                    .value(&self.template.text[range], &Variables::new())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
const COUNT: u32 = 2u;
const TWICE: u32 = 2u * COUNT;
const ADDS: bool = false;
//# if ADDS
@group(0) @binding(next) var added;
//# end
@group(0) @binding(next) var read;
//# for i in COUNT
//# for j in TWICE / 2
let x_#i_#j = #(10 * i + j)u;
//# end
//# end
//# if !ADDS && COUNT == 3
three #COUNTx
//# else
not three
//# end
";

    fn lines(constants: &[(&str, String)]) -> Vec<String> {
        let text = expand(SOURCE, constants);
        text.lines().skip(4).map(ToString::to_string).collect()
    }

    #[test]
    fn directives_are_expanded() {
        assert_eq!(
            lines(&[]),
            [
                "@group(0) @binding(0) var read;",
                "let x_0_0 = 0u;",
                "let x_0_1 = 1u;",
                "let x_1_0 = 10u;",
                "let x_1_1 = 11u;",
                "not three",
            ]
        );
        let three = lines(&[("COUNT", "3u".into())]);
        assert_eq!(three.last().unwrap(), "three 3x");
        assert_eq!(three.len(), 1 + 9 + 1);
        let adds = lines(&[("ADDS", "true".into())]);
        assert_eq!(adds[0], "@group(0) @binding(0) var added;");
        assert_eq!(adds[1], "@group(0) @binding(1) var read;");
    }

    #[test]
    #[should_panic(expected = "has no constant UNKNOWN")]
    fn unknown_constants_are_refused() {
        expand(SOURCE, &[("UNKNOWN", "1u".into())]);
    }
}
