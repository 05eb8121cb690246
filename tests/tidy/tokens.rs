//! The tokens of a source, without those that are compiled for tests only.
//!
//! The lexer drops comments and makes a doc comment an attribute with a string, so neither they nor
//! string literals can be taken for code.

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// The tokens on one level of a source: a group in brackets of any kind is one of them.
#[derive(Debug)]
pub(crate) struct Tokens(Vec<TokenTree>);

impl Tokens {
    /// The tokens of `text`, without those for tests only.
    pub(crate) fn of_source(file: &str, text: &str) -> Self {
        match text.parse::<TokenStream>() {
            Ok(stream) => Self::new(stream).without_tests(),
            Err(error) => panic!("{file} cannot be read as Rust: {error}"),
        }
    }

    fn new(stream: TokenStream) -> Self {
        Self(stream.into_iter().collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The line of the token at `at`, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.0[at].span().start().line
    }

    pub(crate) fn word(&self, at: usize) -> Option<String> {
        match self.0.get(at) {
            Some(TokenTree::Ident(word)) => Some(word.to_string()),
            _ => None,
        }
    }

    pub(crate) fn is_word(&self, at: usize, expected: &str) -> bool {
        matches!(self.0.get(at), Some(TokenTree::Ident(word)) if word == expected)
    }

    pub(crate) fn is_mark(&self, at: usize, expected: char) -> bool {
        matches!(self.0.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == expected)
    }

    /// Whether the token so far before `at` is this mark.
    pub(crate) fn is_mark_before(&self, at: usize, distance: usize, expected: char) -> bool {
        let before = at.checked_sub(distance);
        before.is_some_and(|before| self.is_mark(before, expected))
    }

    pub(crate) fn is_path_separator(&self, at: usize) -> bool {
        self.is_joint(at, ':') && self.is_mark(at + 1, ':')
    }

    /// The tokens inside the group at `at`.
    pub(crate) fn inside(&self, at: usize) -> Option<Self> {
        match self.0.get(at) {
            Some(TokenTree::Group(group)) => Some(Self::new(group.stream())),
            _ => None,
        }
    }

    pub(crate) fn inside_braces(&self, at: usize) -> Option<Self> {
        self.inside_delimiters(at, Delimiter::Brace)
    }

    /// Every word with its line, on this level and inside its groups.
    pub(crate) fn words(&self) -> Vec<(usize, String)> {
        let mut words = Vec::new();
        for at in 0..self.len() {
            words.extend(self.word(at).map(|word| (self.line(at), word)));
            words.extend(self.inside(at).iter().flat_map(Self::words));
        }
        words
    }

    fn inside_delimiters(&self, at: usize, delimiter: Delimiter) -> Option<Self> {
        match self.0.get(at) {
            Some(TokenTree::Group(group)) if group.delimiter() == delimiter => self.inside(at),
            _ => None,
        }
    }

    /// Whether the token at `at` is this mark with another mark directly after it.
    fn is_joint(&self, at: usize, expected: char) -> bool {
        matches!(
            self.0.get(at),
            Some(TokenTree::Punct(mark))
                if mark.as_char() == expected && mark.spacing() == Spacing::Joint
        )
    }

    /// These without what tests, models or fuzz targets alone have.
    fn without_tests(self) -> Self {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < self.len() {
            let is_inner = self.is_mark(at, '#') && self.is_mark(at + 1, '!');
            if is_inner && self.is_for_tests(at + 2) {
                break;
            }
            let start = self.attributes_end(at);
            if (at..start).any(|attribute| self.is_for_tests(attribute)) {
                at = self.attributed_end(start);
                continue;
            }
            kept.extend_from_slice(&self.0[at..start]);
            kept.extend(self.0.get(start).map(token_without_tests));
            at = start + 1;
        }
        Self(kept)
    }

    /// The position after the outer attributes that begin at `at`, if any do.
    fn attributes_end(&self, mut at: usize) -> usize {
        let is_bracket = |at| self.inside_delimiters(at, Delimiter::Bracket).is_some();
        while self.is_mark(at, '#') && is_bracket(at + 1) {
            at += 2;
        }
        at
    }

    /// Whether the group at `at` is the `[cfg(..)]` of something that only tests have.
    fn is_for_tests(&self, at: usize) -> bool {
        let attribute = self.inside_delimiters(at, Delimiter::Bracket);
        let Some(attribute) = attribute.filter(|attribute| attribute.is_word(0, "cfg")) else {
            return false;
        };
        let predicate = attribute.inside(1);
        predicate.is_some_and(|predicate| predicate.holds_in_tests_only(0))
    }

    /// Whether the predicate of a `cfg` that begins at `at` holds in no build that is shipped.
    fn holds_in_tests_only(&self, at: usize) -> bool {
        let Some(word) = self.word(at) else {
            return false;
        };
        let operands = self.inside(at + 1);
        match (word.as_str(), operands) {
            ("all", Some(all)) => {
                let mut starts = all.starts_between_commas().into_iter();
                starts.any(|start| all.holds_in_tests_only(start))
            }
            ("any", Some(any)) => {
                let starts = any.starts_between_commas();
                !starts.is_empty() && starts.iter().all(|start| any.holds_in_tests_only(*start))
            }
            (name, None) => TEST_CONFIGURATIONS.contains(&name),
            _ => false,
        }
    }

    /// Where each part of a list begins that commas separate.
    pub(crate) fn starts_between_commas(&self) -> Vec<usize> {
        let is_start = |at: &usize| *at == 0 || self.is_mark(*at - 1, ',');
        (0..self.len()).filter(is_start).collect()
    }

    /// The position after what begins at `start` and has an attribute: an item, a statement, a
    /// field, a variant, an arm or an expression.
    ///
    /// Its end is a semicolon, a comma where one can be the end, or braces after which it does not
    /// go on.
    fn attributed_end(&self, start: usize) -> usize {
        let is_item = self.is_item(start);
        let mut angle_brackets = 0_usize;
        for at in start..self.len() {
            if self.opens_angle_bracket(at) {
                angle_brackets += 1;
            } else if self.is_mark(at, '>') && !self.is_arrow_head(at) {
                angle_brackets = angle_brackets.saturating_sub(1);
            }
            let is_comma = self.is_mark(at, ',') && !is_item && angle_brackets == 0;
            let is_body = self.inside_braces(at).is_some() && !self.goes_on(at + 1);
            if self.is_mark(at, ';') || is_comma || is_body {
                return at + 1;
            }
        }
        self.len()
    }

    fn is_item(&self, mut at: usize) -> bool {
        let is_parenthesis = |at| self.inside_delimiters(at, Delimiter::Parenthesis).is_some();
        let is_qualifier = |at| QUALIFIERS.iter().any(|word| self.is_word(at, word));
        while is_qualifier(at) {
            at += 1 + usize::from(is_parenthesis(at + 1));
        }
        ITEM_WORDS.iter().any(|word| self.is_word(at, word))
    }

    /// Whether braces just before `at` do not end what they are in, as in `Foo { a }.call()` and
    /// `use a::{b};`.
    fn goes_on(&self, at: usize) -> bool {
        ".?=|,;".chars().any(|mark| self.is_mark(at, mark)) || self.is_word(at, "else")
    }

    /// Whether `at` opens a list of generic arguments: rustfmt writes a comparison with a space
    /// before it.
    fn opens_angle_bracket(&self, at: usize) -> bool {
        let end_of = |token: usize| self.0[token].span().end();
        let start = self.0[at].span().start();
        self.is_mark(at, '<')
            && at
                .checked_sub(1)
                .is_some_and(|token| end_of(token) == start)
    }

    /// Whether the `>` at `at` is the end of `->` or `=>`.
    fn is_arrow_head(&self, at: usize) -> bool {
        let before = at.checked_sub(1);
        before.is_some_and(|before| self.is_joint(before, '-') || self.is_joint(before, '='))
    }
}

fn token_without_tests(token: &TokenTree) -> TokenTree {
    let TokenTree::Group(group) = token else {
        return token.clone();
    };
    let inside = Tokens::new(group.stream()).without_tests();
    let mut kept = Group::new(group.delimiter(), inside.0.into_iter().collect());
    kept.set_span(group.span());
    kept.into()
}

/// Configurations in which a test, a model or a fuzz target is compiled. No floor holds what exists
/// in these alone.
const TEST_CONFIGURATIONS: [&str; 4] = ["test", "doctest", "loom", "fuzzing"];

/// Words that begin something in which a comma is never the end.
const ITEM_WORDS: [&str; 14] = [
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "use",
];

/// Words that may stand before an item's own.
const QUALIFIERS: [&str; 3] = ["pub", "unsafe", "async"];
