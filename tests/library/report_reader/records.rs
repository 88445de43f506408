//! Python's records of a report, from its JSON Schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Longest line.
const WIDTH: usize = 120;

/// The classes and type aliases, in the order of the schema: the report first, then what it refers to.
pub(super) fn python(schema: &Value) -> String {
    let definitions = schema["$defs"].as_object().unwrap();
    let mut objects: Vec<(&str, &Map<String, Value>)> = Vec::new();
    let mut text = String::new();
    for (name, definition) in
        std::iter::once(("Report", schema)).chain(definitions.iter().map(|(n, d)| (n.as_str(), d)))
    {
        if let Some(choices) = definition.get("oneOf") {
            text += &alias(name, definition, choices.as_array().unwrap());
            continue;
        }
        let properties = definition["properties"].as_object().unwrap();
        // What serde flattened is a class of its own.
        let base =
            objects.iter().find(|(_, other)| other.iter().all(|(name, field)| properties.get(name) == Some(field)));
        text += &class(name, definition, base.copied());
        objects.push((name, properties));
    }
    text
}

fn class(name: &str, definition: &Value, base: Option<(&str, &Map<String, Value>)>) -> String {
    let parent = base.map_or_else(String::new, |(name, _)| format!("({name})"));
    let mut text = format!("\n\n@dataclass(frozen=True, kw_only=True)\nclass {name}{parent}:\n");
    for line in wrapped(&format!("\"\"\"{}\"\"\"", description(definition)), WIDTH - 4) {
        writeln!(text, "    {line}").unwrap();
    }
    let required = definition["required"].as_array().unwrap();
    for (field, schema) in definition["properties"].as_object().unwrap() {
        if base.is_some_and(|(_, inherited)| inherited.contains_key(field)) {
            continue;
        }
        let default = if required.iter().any(|name| name == field) { String::new() } else { default(schema) };
        let line = format!("    {field}: {}{default}", type_of(schema));
        let whole = description(schema);
        let room = WIDTH.saturating_sub(line.chars().count() + "  # ".len());
        match shortened(&whole, room) {
            Some("") => writeln!(text, "{line}").unwrap(),
            Some(short) => writeln!(text, "{line}  # {}.", short.trim_end_matches('.')).unwrap(),
            None => {
                for part in wrapped(&whole, WIDTH - "    # ".len()) {
                    writeln!(text, "    # {part}").unwrap();
                }
                writeln!(text, "{line}").unwrap();
            }
        }
    }
    text
}

/// One of several words, or an object with a single field, which is named after it.
fn alias(name: &str, definition: &Value, choices: &[Value]) -> String {
    let (mut text, mut words, mut or_class) = (String::new(), Vec::new(), String::new());
    for choice in choices {
        if let Some(word) = choice.get("const") {
            words.push(word.to_string());
        } else {
            let field = choice["properties"].as_object().unwrap().keys().next().unwrap();
            let class_name = field[..1].to_uppercase() + &field[1..];
            text += &class(&class_name, choice, None);
            write!(or_class, " | {class_name}").unwrap();
        }
    }
    write!(text, "\n\n# {}\n", description(definition)).unwrap();
    let line = format!("{name}: TypeAlias = Literal[{}]{or_class}\n", words.join(", "));
    if line.chars().count() <= WIDTH {
        return text + &line;
    }
    writeln!(text, "{name}: TypeAlias = Literal[").unwrap();
    for line in wrapped(&(words.join(", ") + ","), WIDTH - 4) {
        writeln!(text, "    {line}").unwrap();
    }
    text + &format!("]{or_class}\n")
}

fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema.get("$ref") {
        return reference.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    }
    if let Some(constant) = schema.get("const") {
        return format!("Literal[{constant}]");
    }
    match schema["type"].as_str().unwrap() {
        "string" => "str".to_owned(),
        "integer" => "int".to_owned(),
        "number" => "float".to_owned(),
        "boolean" => "bool".to_owned(),
        "object" => "dict[str, Any]".to_owned(),
        "array" => {
            let item = type_of(&schema["items"]);
            match schema.get("maxItems").and_then(Value::as_u64) {
                Some(count) => format!("tuple[{}]", vec![item; usize::try_from(count).unwrap()].join(", ")),
                None => format!("list[{item}]"),
            }
        }
        other => panic!("no Python type for `{other}`"),
    }
}

/// What a field that may be absent is then.
fn default(schema: &Value) -> String {
    if let Some(value) = schema.get("default") {
        return format!(" = {value}");
    }
    if type_of(schema).starts_with("list") { " = field(default_factory=list)" } else { " | None = None" }.to_owned()
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The most whole clauses from the beginning that fit, if that says enough. A list of words in backquotes is not cut.
fn shortened(text: &str, room: usize) -> Option<&str> {
    const SHORTEST: usize = 25;
    if text.chars().count() <= room {
        return Some(text);
    }
    let mut short = text;
    while short.chars().count() > room {
        let end = ["; ", ". ", ": "].into_iter().filter_map(|end| short.rfind(end)).max()?;
        short = &short[..end];
    }
    (short.len() >= SHORTEST && !text.contains(". `")).then_some(short)
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
