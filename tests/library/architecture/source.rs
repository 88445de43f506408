//! Rust sources, read well enough to know which file uses which: comments, literals and tests cut out, `use` trees
//! expanded, paths followed through re-exports to the file that defines what they name.

use std::collections::HashMap;
use std::path::Path;

/// The files of `src`.
pub(super) struct Crate {
    pub(super) files: Vec<File>,
    by_module: HashMap<Vec<String>, usize>,
}

/// A source file.
pub(super) struct File {
    /// Relative to `src`, such as `eval/mod.rs`.
    pub(super) name: String,
    /// Its module, such as `["eval"]`.
    module: Vec<String>,
    /// Without comments, literals and tests; lines are where they were.
    pub(super) code: String,
    /// The same with tests.
    with_tests: String,
    uses: Vec<Use>,
}

/// A name that a `use` declaration brings in.
struct Use {
    line: usize,
    /// `*` last for a glob.
    path: Vec<String>,
    /// The name in this file; `*` for a glob.
    name: String,
    exported: bool,
}

/// Which references count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// All, tests included.
    WithTests,
    /// Those of the code itself; not the re-exports of a module that passes on what its files define.
    InCode,
}

impl Crate {
    pub(super) fn read(folder: &Path) -> Self {
        let mut files = Vec::new();
        collect(folder, &[], &mut files);
        files.sort_by(|left, right| left.name.cmp(&right.name));
        let by_module = files.iter().enumerate().map(|(index, file)| (file.module.clone(), index)).collect();
        Self { files, by_module }
    }

    /// Lines of a file that name something of another file of the crate, and that file's index.
    pub(super) fn references(&self, file: &File, which: Reference) -> Vec<(usize, usize)> {
        let own = self.by_module[&file.module];
        let mut found = Vec::new();
        let code = if which == Reference::WithTests { &file.with_tests } else { &file.code };
        let expanded = uses(code);
        for declared in &expanded {
            if which == Reference::WithTests || !declared.exported {
                found.extend(self.resolve(file, &declared.path, 0).map(|target| (declared.line, target)));
            }
        }
        for (line, path) in inline_paths(code) {
            found.extend(self.resolve(file, &path, 0).map(|target| (line, target)));
        }
        found.retain(|(_, target)| *target != own);
        found
    }

    /// The file that defines what a path names; `None` for what is of no file of this crate.
    fn resolve(&self, file: &File, path: &[String], depth: usize) -> Option<usize> {
        let mut module = file.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" | "kintsugi" => {
                module = if file.name == "main.rs" || path[0] == "crate" { Vec::new() } else { return None };
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [file.module.as_slice(), &[first.to_owned()]].concat();
                if !self.by_module.contains_key(&child) {
                    return None;
                }
            }
        }
        while let Some(next) = rest.first() {
            module.push(next.clone());
            if !self.by_module.contains_key(&module) {
                module.pop();
                break;
            }
            rest = &rest[1..];
        }
        let index = *self.by_module.get(&module)?;
        let Some(name) = rest.first() else { return Some(index) };
        Some(self.definition(index, name, depth).unwrap_or(index))
    }

    /// The file that defines a name which a file brings in by `use`.
    fn definition(&self, index: usize, name: &str, depth: usize) -> Option<usize> {
        let file = &self.files[index];
        if name == "*" || depth > 8 || file.defines(name) {
            return None;
        }
        if let Some(declared) = file.uses.iter().find(|declared| declared.name == name) {
            return self.resolve(file, &declared.path, depth + 1);
        }
        let globs = file.uses.iter().filter(|declared| declared.name == "*");
        let targets = globs.filter_map(|glob| self.resolve(file, &glob.path, depth + 1));
        targets.into_iter().find(|&target| self.files[target].defines(name))
    }
}

impl File {
    /// The module at the root that it belongs to.
    pub(super) fn top(&self) -> &str {
        self.module.first().map_or_else(|| self.name.trim_end_matches(".rs"), String::as_str)
    }

    /// Every path that the code names, in `use` declarations and elsewhere, as written, with its line.
    pub(super) fn paths(&self) -> impl Iterator<Item = (usize, Vec<String>)> {
        let declared = self.uses.iter().map(|declared| (declared.line, declared.path.clone()));
        declared.chain(inline_paths(&self.code))
    }

    fn defines(&self, name: &str) -> bool {
        const ITEMS: [&str; 10] =
            ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "mod", "macro_rules!"];
        let mut words = self.code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '!'));
        let mut before = "";
        words.any(|word| {
            let defined = word == name && ITEMS.contains(&before);
            if !word.is_empty() {
                before = word;
            }
            defined
        })
    }
}

fn collect(folder: &Path, module: &[String], files: &mut Vec<File>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let inner = [module, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            collect(&path, &inner, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let at_root = module.is_empty() && ["lib", "main"].contains(&name.as_str());
            let file_module = match name.as_str() {
                "mod" => module.to_vec(),
                "lib" if at_root => Vec::new(),
                "main" if at_root => vec!["main".to_owned()],
                _ => inner,
            };
            let with_tests = without_comments_and_literals(&fs_err::read_to_string(&path).unwrap());
            let of_tests = file_module.iter().any(|segment| segment == "tests");
            let code = if of_tests { String::new() } else { without_tests(&with_tests) };
            let name = [module, &[path.file_name().unwrap().to_string_lossy().into_owned()]].concat().join("/");
            files.push(File { name, module: file_module, uses: uses(&code), code, with_tests });
        }
    }
}

/// Puts spaces in place of comments and literals.
fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut kept = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        kept[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    };
    let find = |from: usize, end: &str| text[from..].find(end).map_or(bytes.len(), |at| from + at);
    let mut at = 0;
    while at < bytes.len() {
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            find(at, "\n")
        } else if rest.starts_with(b"/*") {
            find(at, "*/") + 2
        } else if !word_before && (rest.starts_with(b"r\"") || rest.starts_with(b"r#\"") || rest.starts_with(b"br")) {
            let hashes = rest.iter().skip_while(|byte| b"br".contains(byte)).take_while(|&&byte| byte == b'#').count();
            match rest.iter().position(|byte| !b"br#".contains(byte)) {
                Some(quote) if rest[quote] == b'"' => {
                    let close = format!("\"{}", "#".repeat(hashes));
                    find(at + quote + 1, &close) + close.len()
                }
                _ => at + 1,
            }
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest.starts_with(b"'\\") {
            find(at + 3, "'") + 1
        } else if rest[0] == b'\'' && text[at + 1..].chars().nth(1) == Some('\'') {
            find(at + 1 + text[at + 1..].chars().next().map_or(1, char::len_utf8), "'") + 1
        } else {
            at += 1;
            continue;
        };
        let end = end.min(bytes.len());
        if end > at + 1 {
            blank(at, end);
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Puts spaces in place of items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut kept = code.as_bytes().to_vec();
    for (start, _) in code.match_indices("#[cfg(") {
        let condition = code[start..].split(']').next().unwrap_or_default();
        if !condition.contains("test") || condition.contains("not(test") {
            continue;
        }
        let (mut depth, mut end) = (0_i32, kept.len());
        for (at, byte) in code.bytes().enumerate().skip(start) {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (byte == b'}' || byte == b';') {
                end = at + 1;
                break;
            }
        }
        kept[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].bytes().filter(|&byte| byte == b'\n').count() + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every name that `use` declarations bring in.
fn uses(code: &str) -> Vec<Use> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].trim_end();
        let begins = code[..at].ends_with(|c: char| c.is_whitespace()) || at == 0;
        let visible = before.ends_with("pub") || (before.ends_with(')') && before.contains("pub("));
        if !begins || !(visible || before.is_empty() || before.ends_with([';', '}', '{', ']'])) {
            continue;
        }
        let Some(tree) = code[at + 4..].split(';').next() else { continue };
        let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut names = Vec::new();
        expand(&tree, &[], &mut names);
        let (line, exported, inner) = (line_of(code, at), visible, inline_modules(code, at));
        found.extend(names.into_iter().map(|(path, name)| Use {
            line,
            path: seen_from_file(path, inner),
            name,
            exported,
        }));
    }
    found
}

/// Expands `a::{b, c::d as e}` to paths and names.
fn expand(tree: &str, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some((head, inner)) = tree.split_once('{') {
        let head: Vec<_> = head.split("::").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let before = [before, &head].concat();
        let inner = inner.strip_suffix('}').unwrap_or(inner);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !inner[start..at].trim().is_empty() {
                        expand(&inner[start..at], &before, found);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, renamed) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim())));
    let mut path: Vec<_> =
        path.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
    // `a::{self, b}` brings in `a`.
    if path.len() == 1 && path[0] == "self" && !before.is_empty() {
        path.clear();
    }
    let path = [before, &path].concat();
    let name = renamed.map(str::to_owned).or_else(|| path.last().cloned()).unwrap_or_default();
    found.push((path, name));
}

/// Every path of two words or more outside `use` declarations.
fn inline_paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut end_of_last = 0;
    for (at, _) in code.match_indices("::") {
        if at < end_of_last {
            continue;
        }
        let start = code[..at].rfind(|c: char| !is_word(c)).map_or(0, |place| place + 1);
        // The width of the character that is no word.
        let start = (start..=at).find(|&place| code.is_char_boundary(place)).unwrap_or(at);
        let mut path = vec![code[start..at].to_owned()];
        let mut end = at;
        while code[end..].starts_with("::") {
            let word: String = code[end + 2..].chars().take_while(|&c| is_word(c)).collect();
            if word.is_empty() {
                break;
            }
            end += 2 + word.len();
            path.push(word);
        }
        end_of_last = end;
        let statement = code[..start].rfind([';', '}', '{']).map_or(0, |place| place + 1);
        let in_use = code[statement..start].split_whitespace().any(|word| word == "use");
        if path.len() > 1 && !path[0].is_empty() && !in_use {
            found.push((line_of(code, start), seen_from_file(path, inline_modules(code, start))));
        }
    }
    found
}

/// How many modules that the file itself holds, `mod name { … }`, are open at a place.
fn inline_modules(code: &str, at: usize) -> usize {
    let begins = code[..at].match_indices("mod ").filter(|(start, _)| {
        let name = code[start + 4..].trim_start_matches(is_word);
        !code[..*start].ends_with(is_word) && name.trim_start().starts_with('{')
    });
    let open = |start: usize| {
        let depth = code[start..at].bytes().fold(0_i32, |depth, byte| match byte {
            b'{' => depth + 1,
            b'}' => depth - 1,
            _ => depth,
        });
        depth > 0
    };
    begins.filter(|&(start, _)| open(start)).count()
}

/// A path inside so many modules of a file as the file itself would write it.
fn seen_from_file(mut path: Vec<String>, modules: usize) -> Vec<String> {
    let climbs = path.iter().take_while(|word| *word == "super").count().min(modules);
    if climbs > 0 {
        path.splice(..climbs, ["self".to_owned()]);
        if path.get(1).is_some_and(|word| word == "super") {
            path.remove(0);
        }
    }
    path
}
