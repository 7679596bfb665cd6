//! Rust sources as the rules see them: functions with their lengths, tests with their names, modules.
//!
//! Owns the reading of `syn`'s tree. Code inside macro calls is opaque to `syn`, so what must also be
//! seen there (`proptest!` tests, printing macros) is looked for in the tokens.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::Visit;

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub line: usize,
    /// Lines that carry code, without one-line match arms, constant tables and nested functions.
    pub length: usize,
    pub excused: bool,
    pub test: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Module path inside the file, then the function's name.
    pub path: Vec<String>,
    pub line: usize,
    pub ignored: bool,
}

/// A `mod name;` line, with the inline modules around it.
#[derive(Debug)]
pub struct Mod {
    pub path: Vec<String>,
    pub file: Option<String>,
    pub test: bool,
}

#[derive(Debug, Default)]
pub struct Source {
    pub functions: Vec<Function>,
    pub tests: Vec<Test>,
    pub mods: Vec<Mod>,
    /// Line ranges of `#[cfg(test)]` items and test functions.
    pub test_lines: Vec<RangeInclusive<usize>>,
    /// Line ranges of constants and statics longer than one line.
    pub table_lines: Vec<RangeInclusive<usize>>,
    /// Every `name!` call: the name and its line.
    pub macros: Vec<(String, usize)>,
}

impl Source {
    pub fn parse(text: &str) -> Result<Source, (usize, String)> {
        let at = |e: syn::Error| (e.span().start().line, e.to_string());
        let file = syn::parse_file(text).map_err(at)?;
        let tokens: TokenStream = text.parse().map_err(|e: proc_macro2::LexError| (1, e.to_string()))?;
        let mut reading = Reading::default();
        reading.tokens(tokens);
        reading.visit_file(&file);
        let source = reading.source;
        Ok(source)
    }

    pub fn in_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }
}

#[derive(Default)]
struct Reading {
    source: Source,
    /// Lines that carry a token which is no comment.
    code: BTreeSet<usize>,
    modules: Vec<String>,
    in_test: bool,
}

impl Reading {
    /// Notes which lines carry code, and every macro call, however deep inside other macros.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) if is_doc_comment(&tokens[..i], group) => continue,
                TokenTree::Group(group) => {
                    self.code.extend([group.span_open().start().line, group.span_close().end().line]);
                    self.tokens(group.stream());
                }
                TokenTree::Ident(name) => {
                    let called = matches!(tokens.get(i + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                    if called && matches!(tokens.get(i + 2), Some(TokenTree::Group(_))) {
                        self.source.macros.push((name.to_string(), name.span().start().line));
                    }
                    self.code.extend(lines(name.span()));
                }
                // The `#` of a doc comment sits on the comment's line: only what follows it is code.
                TokenTree::Punct(p) if p.as_char() == '#' => {}
                other => self.code.extend(lines(other.span())),
            }
        }
    }

    fn function(&mut self, attrs: &[syn::Attribute], sig: &syn::Signature, block: &syn::Block) {
        let test = attrs.iter().any(is_test);
        if test {
            let ignored = attrs.iter().any(|attr| mentions(attr, "ignore"));
            self.test(sig.ident.to_string(), sig.ident.span().start().line, ignored);
        }
        let test = test || self.in_test;
        let first = sig.span().start().line;
        if test {
            self.source.test_lines.push(first..=block.span().end().line);
        }
        let mut free = Uncounted::default();
        free.visit_block(block);
        let code = self.code.range(first..=block.span().end().line);
        let length = code.filter(|line| !free.lines.contains(line)).count();
        let excused = attrs.iter().any(|a| a.path().is_ident("expect") && mentions(a, "too_many_lines"));
        self.source.functions.push(Function { name: sig.ident.to_string(), line: first, length, excused, test });
    }

    fn test(&mut self, name: String, line: usize, ignored: bool) {
        let mut path = self.modules.clone();
        path.push(name);
        self.source.tests.push(Test { path, line, ignored });
    }

    fn table(&mut self, item: &impl Spanned) {
        let lines = range(item);
        if lines.start() < lines.end() {
            self.source.table_lines.push(lines);
        }
    }

    /// `proptest!` holds `#[test] fn name(...)`, which is no item as far as `syn` can tell.
    fn tests_in_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let (mut test, mut ignored) = (false, false);
        for pair in tokens.windows(2) {
            match (&pair[0], &pair[1]) {
                (TokenTree::Punct(p), TokenTree::Group(g)) if p.as_char() == '#' => {
                    let text = g.stream().to_string();
                    test |= text == "test";
                    ignored |= text.starts_with("ignore");
                }
                (TokenTree::Ident(keyword), TokenTree::Ident(name)) if keyword == "fn" => {
                    if test {
                        self.test(name.to_string(), name.span().start().line, ignored);
                    }
                    (test, ignored) = (false, false);
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let test = self.in_test || item.attrs.iter().any(is_cfg_test);
        if test {
            self.source.test_lines.push(range(item));
        }
        self.modules.push(item.ident.to_string());
        if item.content.is_none() {
            let file = item.attrs.iter().find_map(path_attribute);
            self.source.mods.push(Mod { path: self.modules.clone(), file, test });
        }
        let outside = std::mem::replace(&mut self.in_test, test);
        syn::visit::visit_item_mod(self, item);
        self.in_test = outside;
        self.modules.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let outside = self.in_test;
        self.in_test |= item.attrs.iter().any(is_cfg_test);
        self.function(&item.attrs, &item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
        self.in_test = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outside = self.in_test;
        if item.attrs.iter().any(is_cfg_test) {
            self.in_test = true;
            self.source.test_lines.push(range(item));
        }
        syn::visit::visit_item_impl(self, item);
        self.in_test = outside;
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.table(item);
        syn::visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.table(item);
        syn::visit::visit_item_static(self, item);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.tests_in_tokens(mac.tokens.clone());
    }
}

/// Lines inside a function that its length does not include.
#[derive(Default)]
struct Uncounted {
    lines: BTreeSet<usize>,
}

impl<'ast> Visit<'ast> for Uncounted {
    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let lines = range(arm);
        if lines.start() == lines.end() {
            self.lines.extend(lines);
        }
        syn::visit::visit_arm(self, arm);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.lines.extend(range(item));
    }
}

fn range(item: &impl Spanned) -> RangeInclusive<usize> {
    lines(item.span())
}

fn lines(span: proc_macro2::Span) -> RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// `/// text` reaches us as `#[doc = "text"]`, and `//! text` as `#![doc = "text"]`.
fn is_doc_comment(before: &[TokenTree], group: &proc_macro2::Group) -> bool {
    let sign = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if matches!(p.as_char(), '#' | '!'));
    let doc = |token: TokenTree| matches!(token, TokenTree::Ident(name) if name == "doc");
    group.delimiter() == Delimiter::Bracket
        && before.last().is_some_and(sign)
        && group.stream().into_iter().next().is_some_and(doc)
}

fn is_test(attr: &syn::Attribute) -> bool {
    attr.path().segments.last().is_some_and(|last| last.ident == "test")
}

fn is_cfg_test(attr: &syn::Attribute) -> bool {
    attr.path().is_ident("cfg") && mentions(attr, "test") && !mentions(attr, "not")
}

fn mentions(attr: &syn::Attribute, word: &str) -> bool {
    fn any(tokens: TokenStream, word: &str) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => ident == word,
            TokenTree::Group(group) => any(group.stream(), word),
            _ => false,
        })
    }
    attr.path().is_ident(word) || matches!(&attr.meta, syn::Meta::List(list) if any(list.tokens.clone(), word))
}

fn path_attribute(attr: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attr.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
    pair.path.is_ident("path").then(|| text.value())
}
