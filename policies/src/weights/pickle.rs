//! The part of Python's pickle format that describes data. Nothing is executed: a class or function is a name.
//!
//! Values live in an arena and refer to each other by index, since pickles share them and fill them after they were referred to.

use std::collections::HashMap;

/// Index of a value in [`Pickle::values`].
pub type Id = usize;

/// A value of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes,
    /// Tuples, lists and sets.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function: `module.name`.
    Global(String),
    /// What is kept beside the pickle (PyTorch: a storage), by its description.
    Persistent(Id),
    /// A call that was not made, of an object that is not there.
    Call {
        function: Id,
        arguments: Id,
    },
}

/// The values of a pickle and which of them is the whole.
#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    root: Id,
}

/// What the reader met, in words.
pub type Problem = String;

/// Longest name of a class or function. A pickle may say a long one once and refer to it a million times, and each is a copy.
const CLASS_BYTES: usize = 256;

fn class(module: &str, name: &str) -> Result<Value, Problem> {
    match module.len().saturating_add(name.len()) {
        length if length > CLASS_BYTES => Err(format!("a class with a name of {length} bytes, more than {CLASS_BYTES}")),
        _ => Ok(Value::Global(format!("{module}.{name}"))),
    }
}

impl Pickle {
    /// Read a pickle of protocol 2 to 5.
    pub fn read(bytes: &[u8]) -> Result<Self, Problem> {
        Machine { bytes, at: 0, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() }.run()
    }

    pub fn root(&self) -> Id {
        self.root
    }

    pub fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::Nothing)
    }

    /// The text of a value, if it is one.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that counts something.
    pub fn count(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub fn list(&self, id: Id) -> &[Id] {
        match self.get(id) {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The name of a class or function.
    pub fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }
}

/// The stack machine that a pickle is a program for.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle, Problem> {
        loop {
            match self.byte()? {
                0x80 => {
                    let protocol = self.byte()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("pickle protocol {protocol}"));
                    }
                }
                // A frame only says how much to read ahead.
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { values: self.values, root });
                }
                b'N' => self.push(Value::Nothing),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'K' => self.number(1)?,
                b'M' => self.number(2)?,
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    let x = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(x));
                }
                b'X' | b'T' => self.text(4)?,
                b'U' | 0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                b'B' => self.skip(4)?,
                b'C' => self.skip(1)?,
                0x8e | 0x96 => self.skip(8)?,
                b')' | b']' | 0x8f => self.push(Value::List(vec![])),
                b'}' => self.push(Value::Dict(vec![])),
                b't' | b'l' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Value::List(items));
                }
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b'd' => {
                    let items = self.pop_mark()?;
                    let dict = self.id(Value::Dict(vec![]));
                    self.insert(dict, &items);
                    self.stack.push(dict);
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    let dict = self.top()?;
                    self.insert(dict, &[key, value]);
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    let dict = self.top()?;
                    self.insert(dict, &items);
                }
                b'q' => {
                    let key = self.byte()?.into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                0x94 => {
                    let key = u32::try_from(self.memo.len()).map_err(|_| "too many values".to_owned())?;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.byte()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'c' => {
                    let class = class(&self.line()?, &self.line()?)?;
                    self.push(class);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let class = match (&self.values[module], &self.values[name]) {
                        (Value::Text(module), Value::Text(name)) => class(module, name)?,
                        _ => return Err("a class whose name is no text".to_owned()),
                    };
                    self.push(class);
                }
                b'Q' => {
                    let description = self.pop()?;
                    self.push(Value::Persistent(description));
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(function, arguments);
                }
                0x92 => {
                    let (_, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(function, arguments);
                }
                // The state of an object: attributes, of no interest for dictionaries and objects that were not made.
                b'b' => drop(self.pop()?),
                other => return Err(format!("operation 0x{other:02x} at byte {}", self.at - 1)),
            }
        }
    }

    /// Dictionaries are made, everything else stays a description.
    fn call(&mut self, function: Id, arguments: Id) {
        let is_dict =
            matches!(&self.values[function], Value::Global(name) if name == "collections.OrderedDict" || name == "collections.defaultdict");
        self.push(if is_dict { Value::Dict(vec![]) } else { Value::Call { function, arguments } });
    }

    fn id(&mut self, value: Value) -> Id {
        self.values.push(value);
        self.values.len() - 1
    }

    fn push(&mut self, value: Value) {
        let id = self.id(value);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        self.stack.pop().ok_or_else(|| "a value too few".to_owned())
    }

    fn top(&self) -> Result<Id, Problem> {
        self.stack.last().copied().ok_or_else(|| "a value too few".to_owned())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let height = self.marks.pop().filter(|height| *height <= self.stack.len()).ok_or("a mark too few")?;
        Ok(self.stack.split_off(height))
    }

    fn tuple(&mut self, count: usize) -> Result<(), Problem> {
        let height = self.stack.len().checked_sub(count).ok_or("a value too few")?;
        let items = self.stack.split_off(height);
        self.push(Value::List(items));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Problem> {
        let list = self.top()?;
        if let Value::List(list) = &mut self.values[list] {
            list.extend(items);
        }
        Ok(())
    }

    /// Keys and values in turn; objects that were not made take nothing.
    fn insert(&mut self, dict: Id, items: &[Id]) {
        if let Value::Dict(dict) = &mut self.values[dict] {
            dict.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), Problem> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Problem> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("a reference to value {key}, which is not there"))?;
        self.stack.push(id);
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("an end at byte {} where {count} more were announced", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian number of up to 8 bytes.
    fn size(&mut self, bytes: usize) -> Result<usize, Problem> {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(all)).map_err(|_| "a length beyond this machine".to_owned())
    }

    fn number(&mut self, bytes: usize) -> Result<(), Problem> {
        let n = self.size(bytes)? as i64;
        self.push(Value::Int(n));
        Ok(())
    }

    /// An integer of any length; those that don't fit 64 bits are of no interest here.
    fn long(&mut self) -> Result<(), Problem> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut all = [if negative { 0xFF } else { 0 }; 8];
        self.push(match all.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(all))
            }
            None => Value::Bytes,
        });
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), Problem> {
        let length = self.size(length_bytes)?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn skip(&mut self, length_bytes: usize) -> Result<(), Problem> {
        let length = self.size(length_bytes)?;
        self.take(length)?;
        self.push(Value::Bytes);
        Ok(())
    }

    fn line(&mut self) -> Result<String, Problem> {
        let length = self.bytes[self.at..].iter().position(|b| *b == b'\n').ok_or("a name without an end")?;
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps({"a": (1, -2.5), "b": [True, None, 300, -1]}, protocol=2)` with the list referred to twice.
    const PICKLE: &[u8] =
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01G\xc0\x04\x00\x00\x00\x00\x00\x00\x86X\x01\x00\x00\x00b]q\x01(\x88NM\x2c\x01J\xff\xff\xff\xffeX\x01\x00\x00\x00ch\x01u.";

    #[test]
    fn values_are_read() {
        let pickle = Pickle::read(PICKLE).unwrap();
        let Value::Dict(items) = pickle.get(pickle.root()) else { panic!() };
        assert_eq!(items.iter().map(|(key, _)| pickle.text(*key).unwrap()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let of = |i: usize| pickle.list(items[i].1).iter().map(|id| pickle.get(*id).clone()).collect::<Vec<_>>();
        assert_eq!(of(0), [Value::Int(1), Value::Float(-2.5)]);
        assert_eq!(of(1), [Value::Bool(true), Value::Nothing, Value::Int(300), Value::Int(-1)]);
        assert_eq!(items[1].1, items[2].1, "one list, referred to twice");
    }

    #[test]
    fn nothing_is_executed() {
        // os.system("true")
        let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        let Value::Call { function, .. } = pickle.get(pickle.root()) else { panic!() };
        assert_eq!(pickle.global(*function), Some("os.system"));
    }

    #[test]
    fn long_names_of_classes_are_refused_before_they_are_copied() {
        let named_by_stack = |length: usize| {
            let mut pickle = b"\x80\x04X".to_vec();
            pickle.extend((length as u32).to_le_bytes());
            pickle.extend(vec![b'a'; length]);
            // The text once, then a class named by it twice over, again and again.
            pickle.extend(b"\x94");
            (0..1000).for_each(|_| pickle.extend(b"h\x00h\x00\x93"));
            pickle.extend(b".");
            Pickle::read(&pickle)
        };
        assert!(named_by_stack(128).is_ok());
        assert!(named_by_stack(129).unwrap_err().contains("258 bytes"));
        let line = [b"c".as_slice(), &[b'a'; 300], b"\nb\n."].concat();
        assert!(Pickle::read(&line).unwrap_err().contains("301 bytes"));
        assert!(Pickle::read(b"K\x01K\x01\x93.").unwrap_err().contains("no text"));
    }

    #[test]
    fn long_integers_keep_their_sign() {
        for (bytes, value) in [(&b"\x8a\x00."[..], 0), (b"\x8a\x01\xff.", -1), (b"\x8a\x02\xff\x00.", 255)] {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(pickle.get(pickle.root()), &Value::Int(value));
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for end in 0..PICKLE.len() {
            assert!(Pickle::read(&PICKLE[..end]).is_err(), "cut after {end} bytes");
        }
        for i in 0..PICKLE.len() {
            for byte in 0..=255 {
                let mut damaged = PICKLE.to_vec();
                damaged[i] = byte;
                let _ = Pickle::read(&damaged);
            }
        }
        for (bytes, part) in [
            (&b"\x80\x01."[..], "protocol 1"),
            (b"u.", "mark"),
            (b"\x86.", "too few"),
            (b"h\x07.", "value 7"),
            (b"X\xff\xff\xff\xffab", "announced"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "announced"),
            (b"cos\nsystem", "without an end"),
            (b"\xff", "0xff"),
        ] {
            let problem = Pickle::read(bytes).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
