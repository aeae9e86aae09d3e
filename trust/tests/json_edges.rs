//! JSON that readers of JSON disagree about, made of a sound text: for each value and each object one
//! text with another spelling, a duplicate key, more depth, or bytes that are no text.
//!
//! What parsers make of such texts is collected by JSONTestSuite and RFC 8259's own warnings
//! (duplicate names, numbers beyond a double, lone surrogates); none may be read here.

use serde_json::Value;

/// A change, and the text that has it.
pub(crate) type Edge = (String, Vec<u8>);

/// Other texts for a number, each with its own reading in some parser.
const NUMBERS: [&str; 14] = [
    "{}.0",
    "{}e0",
    "{}E+0",
    "-{}",
    "+{}",
    "0{}",
    "0x{}",
    "{}.",
    ".{}",
    "{}e400",
    "NaN",
    "Infinity",
    "18446744073709551616",
    "1{}00000000000000000000",
];

/// Bytes that are no UTF-8: a byte alone, an overlong NUL, a surrogate, one beyond Unicode, one that is cut.
const NO_TEXT: [&[u8]; 5] = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"];

/// Escapes of surrogates that are no pair, and controls as they are.
const NO_CHARACTER: [&str; 7] =
    ["\\ud800", "\\udc00\\ud800", "\\ud83dx", "\\uD800\\u0041", "\\u00g0", "\\x41", "\u{1}"];

/// Around a whole text.
const AROUND: [(&str, &str); 12] = [
    ("\u{feff}", ""),
    ("", "\0"),
    ("", "x"),
    ("", "{}"),
    ("", ","),
    ("", "]"),
    ("[", "]"),
    ("/* a */", ""),
    ("", "// a"),
    ("\u{a0}", ""),
    ("\u{c}", ""),
    ("'", "'"),
];

/// All of them for one sound text.
pub(crate) fn of(text: &[u8]) -> Vec<Edge> {
    let sound: Value = serde_json::from_slice(text).expect("a sound text");
    let mut found: Vec<Edge> = Vec::new();
    for (before, after) in AROUND {
        found.push((
            format!("{before:?} before and {after:?} after"),
            [before.as_bytes(), text, after.as_bytes()].concat(),
        ));
    }
    for at in 0..count(&sound) {
        for change in Change::all() {
            let mut writer = Writer { out: Vec::new(), at, seen: 0, change, changed: false };
            writer.value(&sound);
            if writer.changed {
                found.push((format!("value {at}: {change:?}"), writer.out));
            }
        }
    }
    let nested = |open: &str, close: &str, levels: usize| [open.repeat(levels), close.repeat(levels)].concat();
    for levels in [17, 200, 100_000] {
        found.push((format!("{levels} lists"), nested("[", "]", levels).into_bytes()));
        found.push((
            format!("{levels} objects"),
            format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels)).into_bytes(),
        ));
        found.push((format!("{levels} lists left open"), "[".repeat(levels).into_bytes()));
    }
    found
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Number(usize),
    NoText(usize),
    NoCharacter(usize),
    /// The first key of an object once more at its end, with the same value.
    Again,
    /// The same with another spelling of the key.
    AgainEscaped,
    /// A comma too much.
    Comma,
    /// Many levels in the place of a value.
    Deep,
    /// A word that is not one of JSON's three.
    Word,
}

impl Change {
    fn all() -> impl Iterator<Item = Self> {
        let numbers = (0..NUMBERS.len()).map(Self::Number);
        let texts = (0..NO_TEXT.len()).map(Self::NoText).chain((0..NO_CHARACTER.len()).map(Self::NoCharacter));
        numbers.chain(texts).chain([Self::Again, Self::AgainEscaped, Self::Comma, Self::Deep, Self::Word])
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Writes a value, and the one at `at` with a change.
struct Writer {
    out: Vec<u8>,
    at: usize,
    seen: usize,
    change: Change,
    changed: bool,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        let here = self.seen == self.at;
        self.seen += 1;
        match (value, self.change) {
            (Value::Number(number), Change::Number(form)) if here => {
                self.put(NUMBERS[form].replace("{}", &number.to_string()).as_bytes());
            }
            (Value::String(text), Change::NoText(bytes)) if here => {
                self.put(&[b"\"", text.as_bytes(), NO_TEXT[bytes], b"\""].concat());
            }
            (Value::String(text), Change::NoCharacter(escape)) if here => {
                self.put(format!("\"{}{}\"", text.escape_default(), NO_CHARACTER[escape]).as_bytes());
            }
            (_, Change::Deep) if here => self.put([vec![b'['; 64], vec![b']'; 64]].concat().as_slice()),
            (_, Change::Word) if here => self.put(b"nul"),
            (Value::Object(fields), _) => {
                self.out.push(b'{');
                for (number, (key, value)) in fields.iter().enumerate() {
                    self.key(number, key);
                    self.value(value);
                }
                match (self.change, fields.iter().next()) {
                    (Change::Again, Some((key, value))) if here => self.again(format!("{key:?}"), value),
                    (Change::AgainEscaped, Some((key, value))) if here => {
                        let escaped: String = key.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
                        self.again(format!("\"{escaped}\""), value);
                    }
                    (Change::Comma, _) if here => self.put(b","),
                    _ => (),
                }
                self.out.push(b'}');
            }
            (Value::Array(list), _) => {
                self.out.push(b'[');
                for (number, value) in list.iter().enumerate() {
                    if number > 0 {
                        self.out.push(b',');
                    }
                    self.value(value);
                }
                if let (true, Change::Comma) = (here, self.change) {
                    self.put(b",");
                }
                self.out.push(b']');
            }
            _ => self.out.extend(value.to_string().bytes()),
        }
    }

    fn key(&mut self, number: usize, key: &str) {
        if number > 0 {
            self.out.push(b',');
        }
        self.out.extend(format!("{}:", Value::from(key)).bytes());
    }

    fn again(&mut self, key: String, value: &Value) {
        self.put(format!(",{key}:{value}").as_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.changed = true;
    }
}
