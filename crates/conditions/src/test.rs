//! What a condition becomes: a tree of typed tests, whose evaluation cannot fail.
//!
//! Claims are indices into the list of those that the condition uses. Whoever evaluates has made sure that each is there,
//! unless only its presence is asked for, and of its kind.

use shorepass_core::claims::{Claim, ClaimKind};

/// A claim that a condition uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) name: String,
    pub(crate) kind: ClaimKind,
    /// Whether its value is used; otherwise only its presence is asked for.
    pub(crate) needed: bool,
}

/// Something true or false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    /// The token has the claim.
    Has(usize),
    Equal(Term, Term),
    Order(Order, Term, Term),
    /// The term is one of these.
    OneOf(Term, Vec<Claim>),
    /// The term is one of the texts of this claim.
    Among(Term, usize),
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    Claim(usize),
    /// The characters of a text, or the number of texts in a list.
    Size(usize),
    Literal(Claim),
}

/// How two numbers stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Test {
    pub(crate) fn holds(&self, values: &[Option<&Claim>]) -> bool {
        match self {
            Self::All(tests) => tests.iter().all(|test| test.holds(values)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(values)),
            Self::Not(test) => !test.holds(values),
            Self::Has(claim) => values[*claim].is_some(),
            Self::Equal(one, other) => match (one.value(values), other.value(values)) {
                (Some(one), Some(other)) => one.equals(&other),
                (None, _) | (_, None) => false,
            },
            Self::Order(order, one, other) => match (one.number(values), other.number(values)) {
                (Some(one), Some(other)) => order.holds(one, other),
                (None, _) | (_, None) => false,
            },
            Self::OneOf(term, among) => {
                let value = term.value(values);
                value.is_some_and(|value| among.iter().any(|one| value.equals(&Value::Claim(one))))
            }
            Self::Among(term, claim) => match (term.value(values), values[*claim]) {
                (Some(Value::Claim(Claim::Text(text))), Some(Claim::Texts(texts))) => texts.contains(text),
                (Some(_) | None, _) => false,
            },
        }
    }

    /// The tests that it is made of, without `&&`, `||` and `!`.
    pub(crate) fn leaves(&self) -> Vec<&Self> {
        match self {
            Self::All(tests) | Self::Any(tests) => tests.iter().flat_map(Self::leaves).collect(),
            Self::Not(test) => test.leaves(),
            Self::Has(_) | Self::Equal(..) | Self::Order(..) | Self::OneOf(..) | Self::Among(..) => {
                vec![self]
            }
        }
    }

    /// The claims that a leaf is about.
    pub(crate) fn claims(&self) -> Vec<usize> {
        match self {
            Self::All(_) | Self::Any(_) | Self::Not(_) => Vec::new(),
            Self::Has(claim) => vec![*claim],
            Self::Equal(one, other) | Self::Order(_, one, other) => {
                one.claim().into_iter().chain(other.claim()).collect()
            }
            Self::OneOf(term, _) => term.claim().into_iter().collect(),
            Self::Among(term, claim) => term.claim().into_iter().chain([*claim]).collect(),
        }
    }
}

impl Term {
    fn value<'a>(&'a self, values: &[Option<&'a Claim>]) -> Option<Value<'a>> {
        match self {
            Self::Claim(claim) => values[*claim].map(Value::Claim),
            Self::Literal(literal) => Some(Value::Claim(literal)),
            Self::Size(_) => self.number(values).map(Value::Number),
        }
    }

    fn number(&self, values: &[Option<&Claim>]) -> Option<i64> {
        let size = match self {
            Self::Claim(claim) => return values[*claim].and_then(number),
            Self::Literal(literal) => return number(literal),
            Self::Size(claim) => match values[*claim]? {
                Claim::Text(text) => text.chars().count(),
                Claim::Texts(texts) => texts.len(),
                Claim::Number(_) | Claim::Flag(_) => return None,
            },
        };
        i64::try_from(size).ok()
    }

    /// The claim that it is taken from.
    pub(crate) fn claim(&self) -> Option<usize> {
        match self {
            Self::Claim(claim) | Self::Size(claim) => Some(*claim),
            Self::Literal(_) => None,
        }
    }
}

fn number(claim: &Claim) -> Option<i64> {
    match claim {
        Claim::Number(number) => Some(*number),
        Claim::Text(_) | Claim::Flag(_) | Claim::Texts(_) => None,
    }
}

impl Order {
    pub(crate) fn holds(self, one: i64, other: i64) -> bool {
        match self {
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::Greater => one > other,
            Self::GreaterOrEqual => one >= other,
        }
    }
}

/// What a term is worth.
enum Value<'a> {
    Claim(&'a Claim),
    Number(i64),
}

impl Value<'_> {
    fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Claim(one), Value::Claim(other)) => one == other,
            (Self::Number(one), Value::Number(other)) => one == other,
            (Self::Number(size), Value::Claim(claim)) | (Self::Claim(claim), Value::Number(size)) => {
                number(claim) == Some(*size)
            }
        }
    }
}
