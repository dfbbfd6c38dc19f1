//! Reads Python pickles without executing anything.
//!
//! A pickle is a program for a stack machine (CPython's `pickletools.py` lists its instructions), which may call any
//! function by name. This reader makes no calls: it stores a call as a name with arguments, and accepts only names that
//! its caller allows. All values are in one list and refer to each other by index, so a pickle that refers to itself
//! does no harm; there are at most as many values as the pickle has bytes.

use std::borrow::Cow;
use std::collections::HashMap;

/// The maximum memory for the values and for the machine's stack and memo, in bytes: CIFAR-100's 50,000 names and
/// labels take 17 MB, a checkpoint's tensors less.
const MAX_BYTES: usize = 48 << 20;
/// The maximum nesting of lists, tuples and dictionaries.
const MAX_MARKS: usize = 10_000;

/// The problems of a pickle that is not finished when its bytes end.
const CUT: &str = "it ends here";
const CUT_LINE: &str = "a line without an end";

/// The index of a value in its [`Pickle`].
pub type Id = usize;

/// A value of a pickle; `'a` is the lifetime of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// An integer of more than eight bytes, in little-endian order.
    Long(&'a [u8]),
    /// A floating-point number.
    Float(f64),
    /// Bytes, or a string of Python 2.
    Bytes(Cow<'a, [u8]>),
    /// A string.
    Text(Cow<'a, str>),
    /// A list, a tuple or a set.
    Sequence(Vec<Id>),
    /// Keys and values.
    Dictionary(Vec<(Id, Id)>),
    /// A module and a name in it, such as a class or a function.
    Global(Cow<'a, str>, Cow<'a, str>),
    /// The result of a call, which is not made.
    Call(Call),
    /// A persistent ID: a reference to data outside the pickle.
    Persistent(Id),
}

/// A call that the pickle asks for; it is not made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    /// The function or class to call: a [`Value::Global`].
    pub function: Id,
    /// The arguments: a sequence.
    pub arguments: Id,
    /// The state that the result would be given afterwards.
    pub state: Option<Id>,
    /// The items that would be inserted into the result, as into a dictionary.
    pub items: Vec<(Id, Id)>,
    /// The elements that would be appended to the result, as to a list.
    pub elements: Vec<Id>,
}

/// Why a pickle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It is cut short or damaged, or it is not a pickle.
    #[error("it is cut short or damaged at byte {at} ({problem})")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// It refers to a function or a class that this kind of file does not need.
    #[error(
        "it asks for `{0}`, which such a file does not need: it was refused, and nothing was run"
    )]
    Import(String),
    /// It uses an instruction that is not supported.
    #[error("it uses the instruction {instruction:#04x} at byte {at}, which is not supported")]
    Instruction {
        /// The instruction.
        instruction: u8,
        /// Where.
        at: usize,
    },
}

/// The values of a pickle.
#[derive(Debug, Clone)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Parses the pickle at the beginning of `bytes`, and returns it with its length in bytes. `allow(module, name)`
    /// decides which names it may refer to.
    ///
    /// # Errors
    /// If it is damaged, uses an unsupported instruction, or refers to a name that is not allowed.
    pub fn parse(
        bytes: &'a [u8],
        allow: impl Fn(&str, &str) -> bool,
    ) -> Result<(Self, usize), PickleError> {
        let mut machine = Machine {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            elements: 0,
            allow,
        };
        let root = machine.run()?;
        let values = machine.values;
        Ok((Self { values, root }, machine.at))
    }

    /// Checks that `bytes` are a pickle or may be the beginning of one: most hostile files fail this check.
    ///
    /// # Errors
    /// If no bytes after them could complete a pickle.
    pub fn check_beginning(
        bytes: &[u8],
        allow: impl Fn(&str, &str) -> bool,
    ) -> Result<(), PickleError> {
        match Pickle::parse(bytes, allow) {
            Err(PickleError::Damaged { problem, .. }) if problem == CUT || problem == CUT_LINE => {
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    /// The value that was pickled.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value with that index.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    /// The number of values.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The value as a string, if it is one; also a string of Python 2.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value as an integer, if it is one; `True` is 1.
    pub fn integer(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Integer(number) => Some(*number),
            Value::Bool(truth) => Some(i64::from(*truth)),
            _ => None,
        }
    }

    /// The elements of a list, a tuple or a set, or those that would be appended to the result of a call.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Sequence(elements) => Some(elements),
            Value::Call(call) if !call.elements.is_empty() => Some(&call.elements),
            _ => None,
        }
    }

    /// The keys and values of a dictionary or an `OrderedDict`.
    pub fn dictionary(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dictionary(items) => Some(items),
            Value::Call(call) if self.names(call.function, "collections", "OrderedDict") => {
                Some(&call.items)
            }
            _ => None,
        }
    }

    /// The value of the string `key` in a dictionary.
    pub fn field(&self, dictionary: Id, key: &str) -> Option<Id> {
        let items = self.dictionary(dictionary)?;
        // If a key occurs twice, Python keeps the last value.
        let found = items.iter().rev().find(|(k, _)| self.text(*k) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// The module, the name and the arguments of a call, and the call itself.
    pub fn call(&self, id: Id) -> Option<(&str, &str, &[Id], &Call)> {
        let Value::Call(call) = self.get(id) else {
            return None;
        };
        let Value::Global(module, name) = self.get(call.function) else {
            return None;
        };
        Some((
            module,
            name,
            self.sequence(call.arguments).unwrap_or(&[]),
            call,
        ))
    }

    fn names(&self, id: Id, module: &str, name: &str) -> bool {
        matches!(self.get(id), Value::Global(m, n) if m == module && n == name)
    }
}

/// The stack machine: the stack, the marks in it, and the memo, which stores values by number.
struct Machine<'a, F> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// The number of references in lists, tuples, dictionaries and calls.
    elements: usize,
    allow: F,
}

impl<'a, F: Fn(&str, &str) -> bool> Machine<'a, F> {
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            let at = self.at;
            self.check_size()?;
            let instruction = self.take(1)?[0];
            match instruction {
                // PROTO and FRAME: the protocol's version, and the length of a frame; this reader needs neither.
                0x80 => _ = self.take(1)?,
                0x95 => _ = self.take(8)?,
                b'.' => return self.pop(),

                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    // POP removes the last mark if it is on top of the stack.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                b'1' => _ = self.above_mark()?,
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }

                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'K' => {
                    let number = self.unsigned(1)? as i64;
                    self.push(Value::Integer(number));
                }
                b'M' => {
                    let number = self.unsigned(2)? as i64;
                    self.push(Value::Integer(number));
                }
                b'J' => {
                    let number = self.unsigned(4)? as u32 as i32;
                    self.push(Value::Integer(i64::from(number)));
                }
                0x8a => self.long(1)?,
                0x8b => self.long(4)?,
                b'I' => match self.line()? {
                    "00" => self.push(Value::Bool(false)),
                    "01" => self.push(Value::Bool(true)),
                    digits => {
                        let number = self.parsed(digits)?;
                        self.push(Value::Integer(number));
                    }
                },
                b'L' => {
                    let digits = self.line()?.trim_end_matches('L');
                    let number = self.parsed(digits)?;
                    self.push(Value::Integer(number));
                }
                b'F' => {
                    let digits = self.line()?;
                    let number = self.parsed(digits)?;
                    self.push(Value::Float(number));
                }
                b'G' => {
                    let bytes = self.take(8)?.try_into().unwrap_or_default();
                    self.push(Value::Float(f64::from_be_bytes(bytes)));
                }

                b'S' => {
                    let line = self.line()?;
                    let bytes = unquoted(line)
                        .ok_or_else(|| self.damaged("a string without its quotes"))?;
                    self.push(Value::Bytes(Cow::Owned(bytes)));
                }
                b'V' => {
                    let line = self.line()?;
                    self.push(Value::Text(Cow::Borrowed(line)));
                }
                b'U' | b'C' => self.byte_string(1)?,
                b'T' | b'B' => self.byte_string(4)?,
                0x8e | 0x96 => self.byte_string(8)?,
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,

                b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new())),
                b'}' => self.push(Value::Dictionary(Vec::new())),
                b't' | b'l' | 0x91 => {
                    let elements = self.above_mark()?;
                    self.push(Value::Sequence(elements));
                }
                0x85..=0x87 => {
                    let count = usize::from(instruction - 0x84);
                    let elements = self.pop_several(count)?;
                    self.push(Value::Sequence(elements));
                }
                b'd' => {
                    let elements = self.above_mark()?;
                    let items = self.pairs(&elements)?;
                    self.push(Value::Dictionary(items));
                }
                b'a' => {
                    let element = self.pop()?;
                    self.extend(vec![element])?;
                }
                b'e' | 0x90 => {
                    let elements = self.above_mark()?;
                    self.extend(elements)?;
                }
                b's' => {
                    let pair = self.pop_several(2)?;
                    self.insert(&pair)?;
                }
                b'u' => {
                    let elements = self.above_mark()?;
                    self.insert(&elements)?;
                }

                b'p' => {
                    let line = self.line()?;
                    let number = self.parsed(line)?;
                    self.memo_put(number)?;
                }
                b'q' => {
                    let number = self.unsigned(1)?;
                    self.memo_put(number)?;
                }
                b'r' => {
                    let number = self.unsigned(4)?;
                    self.memo_put(number)?;
                }
                0x94 => self.memo_put(self.memo.len() as u64)?,
                b'g' => {
                    let line = self.line()?;
                    let number = self.parsed(line)?;
                    self.memo_get(number)?;
                }
                b'h' => {
                    let number = self.unsigned(1)?;
                    self.memo_get(number)?;
                }
                b'j' => {
                    let number = self.unsigned(4)?;
                    self.memo_get(number)?;
                }

                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(Cow::Borrowed(module), Cow::Borrowed(name))?;
                }
                0x93 => {
                    let names = self.pop_several(2)?;
                    let [Value::Text(module), Value::Text(name)] =
                        [names[0], names[1]].map(|id| self.values[id].clone())
                    else {
                        return Err(self.damaged("a name that is not a string"));
                    };
                    self.global(module, name)?;
                }
                // REDUCE and NEWOBJ: a function or a class, and arguments.
                b'R' | 0x81 => {
                    let parts = self.pop_several(2)?;
                    self.push_call(parts[0], parts[1])?;
                }
                // NEWOBJ_EX: keyword arguments too, which no supported file uses.
                0x92 => {
                    let parts = self.pop_several(3)?;
                    self.push_call(parts[0], parts[1])?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let object = self.top()?;
                    match &mut self.values[object] {
                        Value::Call(call) => call.state = Some(state),
                        _ => return Err(self.damaged("a state for a value that is not an object")),
                    }
                }
                b'Q' => {
                    let reference = self.pop()?;
                    self.push(Value::Persistent(reference));
                }
                b'P' => {
                    let line = self.line()?;
                    self.push(Value::Text(Cow::Borrowed(line)));
                    let reference = self.pop()?;
                    self.push(Value::Persistent(reference));
                }
                // INST and OBJ (classes of Python 2), EXT (names by number), out-of-band buffers.
                _ => return Err(PickleError::Instruction { instruction, at }),
            }
        }
    }

    fn damaged(&self, problem: &'static str) -> PickleError {
        let at = self.at;
        PickleError::Damaged { at, problem }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() {
            return Err(self.damaged(CUT));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    /// Reads an unsigned little-endian integer of `count` bytes, at most 8.
    fn unsigned(&mut self, count: usize) -> Result<u64, PickleError> {
        let mut bytes = [0; 8];
        bytes[..count].copy_from_slice(self.take(count)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a length of `count_bytes` bytes, then that many bytes.
    fn counted(&mut self, count_bytes: usize) -> Result<&'a [u8], PickleError> {
        let count = self.unsigned(count_bytes)?;
        let count =
            usize::try_from(count).map_err(|_| self.damaged("a length that is too large"))?;
        self.take(count)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| self.damaged(CUT_LINE))?;
        let line = self.take(end)?;
        self.take(1)?;
        let line =
            std::str::from_utf8(line).map_err(|_| self.damaged("a line that is not UTF-8"))?;
        Ok(line.trim_end_matches('\r'))
    }

    fn parsed<T: std::str::FromStr>(&self, digits: &str) -> Result<T, PickleError> {
        digits
            .trim()
            .parse()
            .map_err(|_| self.damaged("not a number"))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Fails if there are more values than any supported file has, before they fill the memory.
    fn check_size(&self) -> Result<(), PickleError> {
        // Bytes per entry of the hash table, including its free slots.
        const MEMO: usize = 2 * size_of::<(u64, Id)>();
        let bytes = self.values.len() * size_of::<Value<'_>>()
            + (self.stack.len() + self.elements) * size_of::<Id>()
            + self.memo.len() * MEMO;
        if bytes > MAX_BYTES || self.marks.len() > MAX_MARKS {
            return Err(self.damaged("more values than such a file has"));
        }
        Ok(())
    }

    /// The height of the stack at the last mark; the values below it cannot be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, PickleError> {
        match self.stack.last() {
            Some(top) if self.stack.len() > self.floor() => Ok(*top),
            _ => Err(self.damaged("a value is missing")),
        }
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_several(&mut self, count: usize) -> Result<Vec<Id>, PickleError> {
        self.elements += count;
        let from = self.stack.len().checked_sub(count);
        match from {
            Some(from) if from >= self.floor() => Ok(self.stack.split_off(from)),
            _ => Err(self.damaged("a value is missing")),
        }
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.damaged("a mark is missing"))?;
        self.elements += self.stack.len() - mark;
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, elements: &[Id]) -> Result<Vec<(Id, Id)>, PickleError> {
        let (pairs, rest) = elements.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    fn extend(&mut self, elements: Vec<Id>) -> Result<(), PickleError> {
        self.elements += elements.len();
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(elements),
            Value::Call(call) => call.elements.extend(elements),
            _ => return Err(self.damaged("an element for a value that is not a list")),
        }
        Ok(())
    }

    fn insert(&mut self, elements: &[Id]) -> Result<(), PickleError> {
        let pairs = self.pairs(elements)?;
        let dictionary = self.top()?;
        match &mut self.values[dictionary] {
            Value::Dictionary(items) => items.extend(pairs),
            Value::Call(call) => call.items.extend(pairs),
            _ => return Err(self.damaged("an item for a value that is not a dictionary")),
        }
        Ok(())
    }

    fn memo_put(&mut self, number: u64) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn memo_get(&mut self, number: u64) -> Result<(), PickleError> {
        let id = self.memo.get(&number).copied();
        let id = id.ok_or_else(|| self.damaged("a reference to a missing memo entry"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: Cow<'a, str>, name: Cow<'a, str>) -> Result<(), PickleError> {
        if !(self.allow)(&module, &name) {
            const SHOWN: usize = 80;
            let asked: String = format!("{module}.{name}").chars().take(SHOWN).collect();
            return Err(PickleError::Import(asked.escape_default().to_string()));
        }
        self.push(Value::Global(module, name));
        Ok(())
    }

    fn push_call(&mut self, function: Id, arguments: Id) -> Result<(), PickleError> {
        if !matches!(self.values[function], Value::Global(..)) {
            return Err(self.damaged("a call of a value that is not a function"));
        }
        self.push(Value::Call(Call {
            function,
            arguments,
            ..Call::default()
        }));
        Ok(())
    }

    fn long(&mut self, count_bytes: usize) -> Result<(), PickleError> {
        let bytes = self.counted(count_bytes)?;
        let Some(last) = bytes.last() else {
            self.push(Value::Integer(0));
            return Ok(());
        };
        if bytes.len() > 8 {
            self.push(Value::Long(bytes));
            return Ok(());
        }
        // The highest bit is the sign.
        let mut extended = if last & 0x80 == 0 { [0; 8] } else { [0xff; 8] };
        extended[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Integer(i64::from_le_bytes(extended)));
        Ok(())
    }

    fn byte_string(&mut self, count_bytes: usize) -> Result<(), PickleError> {
        let bytes = self.counted(count_bytes)?;
        self.push(Value::Bytes(Cow::Borrowed(bytes)));
        Ok(())
    }

    fn text(&mut self, count_bytes: usize) -> Result<(), PickleError> {
        let bytes = self.counted(count_bytes)?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| self.damaged("a string that is not UTF-8"))?;
        self.push(Value::Text(Cow::Borrowed(text)));
        Ok(())
    }
}

/// The content of a string literal that Python's `repr` wrote; `None` if its quotes are wrong.
fn unquoted(line: &str) -> Option<Vec<u8>> {
    let quote = line.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = line.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str, _: &str) -> bool {
        false
    }

    /// `python3 -c "import pickle; print(pickle.dumps({'a': [1, -2, 2.5], 'b': (None, True)}, 2))"`, and protocols 0 and 4.
    #[test]
    fn plain_values_in_every_protocol() {
        let pickles: [&[u8]; 3] = [
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00eX\x01\x00\x00\x00bq\x03N\x88\x86q\x04u.",
            b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naF2.5\nasVb\np3\n(NI01\ntp4\ns.",
            b"\x80\x04\x95-\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00e\x8c\x01b\x94N\x88\x86\x94u.",
        ];
        for bytes in pickles {
            let (pickle, length) = Pickle::parse(bytes, nothing).unwrap();
            assert_eq!(length, bytes.len());
            let list = pickle.field(pickle.root(), "a").unwrap();
            let list = pickle.sequence(list).unwrap();
            assert_eq!(pickle.integer(list[0]), Some(1));
            assert_eq!(pickle.integer(list[1]), Some(-2));
            assert_eq!(pickle.get(list[2]), &Value::Float(2.5));
            let pair = pickle.field(pickle.root(), "b").unwrap();
            let pair = pickle.sequence(pair).unwrap();
            assert_eq!(pickle.get(pair[0]), &Value::None);
            assert_eq!(pickle.get(pair[1]), &Value::Bool(true));
        }
    }

    #[test]
    fn unknown_imports_are_rejected() {
        // os.system('true'), by GLOBAL and by STACK_GLOBAL.
        let pickles: [&[u8]; 2] = [
            b"cos\nsystem\n(S'true'\ntR.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        ];
        for bytes in pickles {
            let error = Pickle::parse(bytes, nothing).unwrap_err();
            assert_eq!(error, PickleError::Import("os.system".into()));
        }
    }

    #[test]
    fn self_references_terminate() {
        // A list that holds itself.
        let (pickle, _) = Pickle::parse(b"]q\x00h\x00a.", nothing).unwrap();
        assert_eq!(pickle.sequence(pickle.root()), Some(&[pickle.root()][..]));
    }

    #[test]
    fn memory_use_is_limited() {
        // Marks; the same value again and again on the stack, in the memo, and in a list; values.
        let memo: Vec<u8> = std::iter::once(b'N')
            .chain((0..2_000_000u32).flat_map(|i| [&b"r"[..], &i.to_le_bytes()].concat()))
            .collect();
        let hostile: [(&str, Vec<u8>); 5] = [
            ("marks", vec![b'('; 20_000]),
            ("stack", [&b"N"[..], &vec![b'2'; 8 << 20]].concat()),
            ("memo", memo),
            (
                "elements",
                [&b"]Nq\x000"[..], &b"h\x00a".repeat(8 << 20)].concat(),
            ),
            ("values", vec![b'N'; 2 << 20]),
        ];
        for (what, bytes) in hostile {
            let error = Pickle::check_beginning(&bytes, nothing).unwrap_err();
            assert!(error.to_string().contains("more values"), "{what}: {error}");
        }
        // Beginnings of a pickle, and a whole one.
        for bytes in [
            &b"\x80\x02}q\x00(X\x01\x00\x00\x00a"[..],
            b"N.",
            b"Vlong",
            b"",
        ] {
            assert_eq!(Pickle::check_beginning(bytes, nothing), Ok(()), "{bytes:?}");
        }
    }

    #[test]
    fn every_truncation_is_detected() {
        let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffeu.";
        for end in 0..whole.len() {
            let error = Pickle::parse(&whole[..end], nothing).unwrap_err();
            assert!(
                matches!(error, PickleError::Damaged { .. }),
                "{end}: {error}"
            );
        }
        // A length beyond the end of the bytes.
        let error = Pickle::parse(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", nothing);
        assert!(matches!(error, Err(PickleError::Damaged { .. })));
    }
}
