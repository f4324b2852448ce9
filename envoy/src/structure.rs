//! Reads a `google.protobuf.Struct`, which allows the policy to be YAML in Envoy's configuration instead of text in a
//! string.
//!
//! Envoy's documentation says that a plugin gets a Struct as JSON, but Envoy 1.40 passes its protobuf encoding. It is
//! decoded here with every length checked; anything other than a Struct up to the last byte is rejected.

use tidegate::number::Number;

/// The JSON text of these bytes; `None` if they are no Struct.
pub fn to_json(bytes: &[u8]) -> Option<String> {
    let mut json = String::new();
    fields(bytes, MAX_DEPTH, &mut json)?;
    Some(json)
}

/// A field of a message.
enum Field<'b> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'b [u8]),
}

/// Struct: `map<string, Value> fields = 1`.
fn fields(bytes: &[u8], depth: u32, json: &mut String) -> Option<()> {
    json.push('{');
    let mut rest = bytes;
    while !rest.is_empty() {
        let Field::Bytes(mut entry) = expect(&mut rest, 1)? else { return None };
        if json.ends_with(|last| last != '{') {
            json.push(',');
        }
        let Field::Bytes(name) = expect(&mut entry, 1)? else { return None };
        quote(str::from_utf8(name).ok()?, json);
        json.push(':');
        let Field::Bytes(content) = expect(&mut entry, 2)? else { return None };
        value(content, depth, json)?;
        if !entry.is_empty() {
            return None;
        }
    }
    json.push('}');
    Some(())
}

/// ListValue: `repeated Value values = 1`.
fn items(bytes: &[u8], depth: u32, json: &mut String) -> Option<()> {
    json.push('[');
    let mut rest = bytes;
    while !rest.is_empty() {
        let Field::Bytes(content) = expect(&mut rest, 1)? else { return None };
        if json.ends_with(|last| last != '[') {
            json.push(',');
        }
        value(content, depth, json)?;
    }
    json.push(']');
    Some(())
}

/// Value: one of null, number, string, boolean, Struct and list.
fn value(bytes: &[u8], depth: u32, json: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut rest = bytes;
    match field(&mut rest)? {
        (1, Field::Varint(_)) => json.push_str("null"),
        (2, Field::Fixed64(number)) => match f64::from_le_bytes(number) {
            number if number.is_finite() => json.push_str(&Number::nearest(number).to_json()),
            _ => return None,
        },
        (3, Field::Bytes(text)) => quote(str::from_utf8(text).ok()?, json),
        (4, Field::Varint(truth)) => json.push_str(if truth == 0 { "false" } else { "true" }),
        (5, Field::Bytes(content)) => fields(content, depth, json)?,
        (6, Field::Bytes(content)) => items(content, depth, json)?,
        _ => return None,
    }
    rest.is_empty().then_some(())
}

fn expect<'b>(rest: &mut &'b [u8], number: u64) -> Option<Field<'b>> {
    field(rest).filter(|(found, _)| *found == number).map(|(_, field)| field)
}

fn field<'b>(rest: &mut &'b [u8]) -> Option<(u64, Field<'b>)> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        0 => Field::Varint(varint(rest)?),
        1 => {
            let (number, after) = rest.split_first_chunk::<8>()?;
            *rest = after;
            Field::Fixed64(*number)
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (content, after) = rest.split_at_checked(length)?;
            *rest = after;
            Field::Bytes(content)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    // Ten bytes of seven bits hold any 64-bit number.
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn quote(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if u32::from(c) < 0x20 => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

/// Deeper than any policy, and no risk to the stack.
const MAX_DEPTH: u32 = 64;
