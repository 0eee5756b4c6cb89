//! The allow-list: every node of the syntax tree becomes a typed test, or the text is refused.

use cel::common::ast::{CallExpr, Expr, ListExpr, LiteralValue, SelectExpr, operators};
use cel::parser::Expression;
use shorepass_core::claims::{Claim, ClaimKind, Claims};
use shorepass_core::job_issuer::JobIssuer;

use crate::read::Read;
use crate::test::{Order, Term, Test, Used};

/// The most nodes that a condition may have.
const NODES_LIMIT: usize = 160;
/// The longest list after `in`.
const LIST_LIMIT: usize = 64;
/// What claims are written as fields of.
const CLAIMS: &str = "claims";

/// Checks what was read against the claims of an issuer.
pub(crate) fn check(read: &Read, issuer: &JobIssuer) -> Result<(Test, Vec<Used>), String> {
    let mut check = Check { read, issuer, used: Vec::new(), asked: Vec::new(), nodes: 0 };
    let test = check.test(&read.root)?;
    if let Some((claim, place)) = check.asked.iter().find(|(claim, _)| check.used[*claim].needed) {
        let name = &check.used[*claim].name;
        let what = format!(
            "has(claims.{name}) says nothing here: a token without a claim that the condition compares is refused anyway; leave it out, or write two items"
        );
        return Err(read.error(place, what));
    }
    Ok((test, check.used))
}

struct Check<'a> {
    read: &'a Read,
    issuer: &'a JobIssuer,
    used: Vec<Used>,
    /// The claims whose presence is asked for, and where.
    asked: Vec<(usize, &'a Expression)>,
    nodes: usize,
}

impl<'a> Check<'a> {
    /// Something true or false.
    fn test(&mut self, node: &'a Expression) -> Result<Test, String> {
        self.count(node)?;
        match &node.expr {
            Expr::Call(call) => self.call(node, call),
            Expr::Select(select) if select.test => {
                let claim = self.claim(node, select, false)?;
                self.asked.push((claim, node));
                Ok(Test::Has(claim))
            }
            Expr::Select(select) => {
                let claim = self.claim(node, select, true)?;
                match self.used[claim].kind {
                    ClaimKind::Flag => Ok(Test::Equal(Term::Claim(claim), Term::Literal(Claim::Flag(true)))),
                    kind @ (ClaimKind::Text | ClaimKind::Number | ClaimKind::Texts) => {
                        let name = &select.field;
                        self.error(
                            node,
                            format!("claims.{name} is {kind}, not true or false: {}", compared(name, kind)),
                        )
                    }
                }
            }
            Expr::Literal(LiteralValue::Boolean(_)) => {
                self.error(node, "true and false decide nothing here: leave them out")
            }
            Expr::Literal(_) => self.error(node, "a value alone is no condition: compare a claim with it"),
            Expr::Ident(name) => self.error(node, unknown_name(name)),
            Expr::Comprehension(_) => self.error(
                node,
                "macros are not available: write what is asked of each claim with `==`, `in`, `&&` and `||`",
            ),
            Expr::List(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                self.error(node, "this is neither true nor false: compare a claim with a value")
            }
        }
    }

    fn call(&mut self, node: &'a Expression, call: &'a CallExpr) -> Result<Test, String> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, args) => Ok(Test::All(self.tests(args)?)),
            (operators::LOGICAL_OR, args) => Ok(Test::Any(self.tests(args)?)),
            (operators::LOGICAL_NOT, [arg]) => Ok(Test::Not(Box::new(self.test(arg)?))),
            (operators::EQUALS, [one, other]) => self.equal(node, one, other),
            (operators::NOT_EQUALS, [one, other]) => Ok(Test::Not(Box::new(self.equal(node, one, other)?))),
            (operators::LESS, [one, other]) => self.order(node, Order::Less, one, other),
            (operators::LESS_EQUALS, [one, other]) => self.order(node, Order::LessOrEqual, one, other),
            (operators::GREATER, [one, other]) => self.order(node, Order::Greater, one, other),
            (operators::GREATER_EQUALS, [one, other]) => self.order(node, Order::GreaterOrEqual, one, other),
            (operators::IN, [one, list]) => self.among(node, one, list),
            ("size", _) => self.error(node, "a size is a number: compare it, as in `size(claims.NAME) > 0`"),
            (name, _) => self.error(node, unavailable(name)),
        }
    }

    fn tests(&mut self, nodes: &'a [Expression]) -> Result<Vec<Test>, String> {
        nodes.iter().map(|node| self.test(node)).collect()
    }

    fn equal(
        &mut self,
        node: &'a Expression,
        one: &'a Expression,
        other: &'a Expression,
    ) -> Result<Test, String> {
        let (kind, one, other) = self.pair(node, one, other)?;
        match kind {
            ClaimKind::Text | ClaimKind::Number | ClaimKind::Flag => Ok(Test::Equal(one, other)),
            ClaimKind::Texts => self
                .error(node, "lists are not compared: ask for a text in one, as in `\"a\" in claims.groups`"),
        }
    }

    fn order(
        &mut self,
        node: &'a Expression,
        order: Order,
        one: &'a Expression,
        other: &'a Expression,
    ) -> Result<Test, String> {
        match self.pair(node, one, other)? {
            (ClaimKind::Number, one, other) => Ok(Test::Order(order, one, other)),
            (kind @ (ClaimKind::Text | ClaimKind::Flag | ClaimKind::Texts), ..) => self.error(
                node,
                format!("only numbers are smaller or greater, and these are {kind} (as text, \"10\" is before \"9\"): compare with `==` or `in`"),
            ),
        }
    }

    /// Two terms of one kind, of which at least one is taken from a claim.
    fn pair(
        &mut self,
        node: &'a Expression,
        one: &'a Expression,
        other: &'a Expression,
    ) -> Result<(ClaimKind, Term, Term), String> {
        let (kind, one) = self.term(one)?;
        let (other_kind, other) = self.term(other)?;
        if kind != other_kind {
            return self
                .error(node, format!("{kind} is compared with {other_kind}: {}", quoted(kind, other_kind)));
        }
        match (&one, &other) {
            (Term::Literal(_), Term::Literal(_)) => self.error(
                node,
                "two values are compared, which is always the same: compare a claim with a value",
            ),
            (Term::Size(_), Term::Size(_) | Term::Claim(_)) | (Term::Claim(_), Term::Size(_)) => {
                self.error(node, "a size is only compared with a number that stands here")
            }
            _ if one == other => {
                self.error(node, "a claim is compared with itself, which is always the same")
            }
            _ => Ok((kind, one, other)),
        }
    }

    fn among(
        &mut self,
        node: &'a Expression,
        one: &'a Expression,
        list: &'a Expression,
    ) -> Result<Test, String> {
        let (kind, term) = self.term(one)?;
        self.count(list)?;
        match &list.expr {
            Expr::List(items) => self.one_of(node, kind, term, items),
            Expr::Select(select) if !select.test => {
                let claim = self.claim(list, select, true)?;
                match (kind, self.used[claim].kind) {
                    (ClaimKind::Text, ClaimKind::Texts) => Ok(Test::Among(term, claim)),
                    (kind, ClaimKind::Texts) => {
                        self.error(one, format!("this is {kind}, and claims.{} has texts", select.field))
                    }
                    (_, other) => self.error(
                        list,
                        format!(
                            "claims.{} is {other}, not a list: {}",
                            select.field,
                            compared(&select.field, other)
                        ),
                    ),
                }
            }
            _ => self.error(
                list,
                "after `in` stands a list of values, `[\"a\", \"b\"]`, or a claim that is a list",
            ),
        }
    }

    fn one_of(
        &mut self,
        node: &'a Expression,
        kind: ClaimKind,
        term: Term,
        items: &'a ListExpr,
    ) -> Result<Test, String> {
        if term.claim().is_none() {
            return self
                .error(node, "a value in a list of values is always the same: write a claim before `in`");
        }
        if items.elements.is_empty() || items.elements.len() > LIST_LIMIT {
            return self.error(node, format!("the list after `in` has 1 to {LIST_LIMIT} values"));
        }
        let mut among: Vec<Claim> = Vec::new();
        for item in &items.elements {
            match self.term(item)? {
                (item_kind, Term::Literal(value)) if item_kind == kind && !among.contains(&value) => {
                    among.push(value)
                }
                (item_kind, Term::Literal(_)) if item_kind == kind => {
                    return self.error(item, "this value stands in the list twice");
                }
                (item_kind, Term::Literal(_)) => {
                    return self.error(
                        item,
                        format!("this is {item_kind}, and {kind} is sought: {}", quoted(kind, item_kind)),
                    );
                }
                (_, Term::Claim(_) | Term::Size(_)) => {
                    return self.error(item, "a list here has values only: compare claims with `==`");
                }
            }
        }
        Ok(Test::OneOf(term, among))
    }

    /// A value, and its kind.
    fn term(&mut self, node: &'a Expression) -> Result<(ClaimKind, Term), String> {
        self.count(node)?;
        match &node.expr {
            Expr::Literal(literal) => self.literal(node, literal),
            Expr::Select(select) if !select.test => {
                let claim = self.claim(node, select, true)?;
                Ok((self.used[claim].kind, Term::Claim(claim)))
            }
            Expr::Call(call) => match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice())
            {
                ("size", None, [sized]) | ("size", Some(sized), []) => self.size(sized),
                (operators::NEGATE, None, [number]) => match self.term(number)? {
                    (kind, Term::Literal(Claim::Number(number))) => {
                        Ok((kind, Term::Literal(Claim::Number(number.saturating_neg()))))
                    }
                    (_, Term::Literal(_) | Term::Claim(_) | Term::Size(_)) => {
                        self.error(node, unavailable(operators::NEGATE))
                    }
                },
                (name, ..) => self.error(node, unavailable(name)),
            },
            Expr::Ident(name) => self.error(node, unknown_name(name)),
            Expr::Select(_)
            | Expr::Comprehension(_)
            | Expr::List(_)
            | Expr::Map(_)
            | Expr::Struct(_)
            | Expr::Unspecified => self
                .error(node, "here stands a claim, `claims.NAME`, a text in quotes, a number, true or false"),
        }
    }

    fn size(&mut self, node: &'a Expression) -> Result<(ClaimKind, Term), String> {
        match self.term(node)? {
            (ClaimKind::Text | ClaimKind::Texts, Term::Claim(claim)) => {
                Ok((ClaimKind::Number, Term::Size(claim)))
            }
            (_, Term::Claim(_) | Term::Size(_) | Term::Literal(_)) => {
                self.error(node, "only a claim that is text or texts has a size")
            }
        }
    }

    fn literal(&mut self, node: &Expression, literal: &LiteralValue) -> Result<(ClaimKind, Term), String> {
        let value = match literal {
            LiteralValue::String(text) => Claim::Text(text.inner().to_owned()),
            LiteralValue::Int(number) => Claim::Number(*number.inner()),
            LiteralValue::Boolean(flag) => Claim::Flag(*flag.inner()),
            LiteralValue::UInt(_) | LiteralValue::Double(_) => {
                return self.error(node, "only whole numbers without a letter are available: write `5`");
            }
            LiteralValue::Bytes(_) => {
                return self.error(node, "bytes are not available: write the text without `b`");
            }
            LiteralValue::Null => {
                return self.error(
                    node,
                    "null is not available: ask with `!has(claims.NAME)` whether a claim is missing",
                );
            }
        };
        match Claims::default().insert("", value.clone()) {
            Ok(()) => Ok((value.kind(), Term::Literal(value))),
            Err(_) => self.error(
                node,
                "no claim has such a text: it is too long, or holds a character that cannot be seen",
            ),
        }
    }

    /// The claim that a selection names; `needed` if its value is used.
    fn claim(&mut self, node: &'a Expression, select: &'a SelectExpr, needed: bool) -> Result<usize, String> {
        match &select.operand.expr {
            Expr::Ident(name) if name == CLAIMS => {}
            _ => return self.error(node, "only `claims` has fields here: write `claims.NAME`"),
        }
        let Some(known) = self.issuer.claim(&select.field) else {
            return self.error(node, self.no_such_claim(&select.field));
        };
        let index = self.used.iter().position(|used| used.name == known.name).unwrap_or_else(|| {
            self.used.push(Used { name: known.name.clone(), kind: known.kind, needed: false });
            self.used.len() - 1
        });
        self.used[index].needed |= needed;
        Ok(index)
    }

    fn no_such_claim(&self, name: &str) -> String {
        let near = self.issuer.known().map(|known| (strsim::jaro_winkler(&known.name, name), &known.name));
        let near =
            near.filter(|(likeness, _)| *likeness > 0.8).max_by(|(one, _), (other, _)| one.total_cmp(other));
        let issuer = self.issuer.name();
        match near {
            Some((_, near)) => {
                format!("job issuer {issuer} has no claim {name}: did you mean claims.{near}?")
            }
            None => format!(
                "job issuer {issuer} has no claim {name}: declare it under the `claims` of the issuer"
            ),
        }
    }

    fn count(&mut self, node: &Expression) -> Result<(), String> {
        self.nodes += 1;
        match self.nodes > NODES_LIMIT {
            true => self.error(
                node,
                "the condition has too many parts: use `in` with a list, or write several items",
            ),
            false => Ok(()),
        }
    }

    fn error<T>(&self, node: &Expression, what: impl AsRef<str>) -> Result<T, String> {
        Err(self.read.error(node, what))
    }
}

fn unknown_name(name: &str) -> String {
    match name {
        CLAIMS => "`claims` alone is no value: write `claims.NAME`".to_owned(),
        _ => format!("there is no `{name}` here: claims are written `claims.{name}`, texts in quotes"),
    }
}

/// How a claim of that kind is compared.
fn compared(name: &str, kind: ClaimKind) -> String {
    match kind {
        ClaimKind::Text => format!("write `claims.{name} == \"...\"`"),
        ClaimKind::Number => format!("write `claims.{name} == 1`"),
        ClaimKind::Flag => format!("write `claims.{name}` or `!claims.{name}`"),
        ClaimKind::Texts => format!("write `\"...\" in claims.{name}`"),
    }
}

/// What to do where one kind is compared with another.
fn quoted(one: ClaimKind, other: ClaimKind) -> &'static str {
    match (one, other) {
        (ClaimKind::Text, ClaimKind::Number | ClaimKind::Flag)
        | (ClaimKind::Number | ClaimKind::Flag, ClaimKind::Text) => {
            "claims that are text are compared with text in quotes, others with values without quotes"
        }
        _ => "both sides must be of one kind",
    }
}

/// What to say of an operator or function that is not on the list.
fn unavailable(name: &str) -> String {
    let instead = match name {
        "matches" | "contains" | "startsWith" | "endsWith" | "find" | "findAll" => {
            "claims are compared whole, as a part of one can be chosen by others: write the values out, with `==` or `in [...]`"
        }
        operators::CONDITIONAL => "write it with `&&` and `||`",
        operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => "write `claims.NAME`",
        operators::ADD
        | operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO
        | operators::NEGATE => "nothing is computed here: write the value out",
        operators::ALL | operators::EXISTS | operators::EXISTS_ONE | operators::MAP | operators::FILTER => {
            "write what is asked of each claim with `==`, `in`, `&&` and `||`"
        }
        _ => "there are ==, !=, <, <=, >, >=, in, &&, ||, !, has() and size()",
    };
    let shown = match name {
        operators::CONDITIONAL => "?:",
        operators::INDEX => "[ ]",
        _ => name.trim_matches(['_', '@']),
    };
    format!("`{shown}` is not available: {instead}")
}
