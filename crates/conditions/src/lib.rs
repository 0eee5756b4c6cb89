//! Conditions of role documents, behind the ports of `core::condition`.
//!
//! The language is a small part of CEL, which people know from Kubernetes. The `cel` crate only reads it: it knows no types
//! and bounds no work, and by its rules an error may still become `true`. So a text is read by it ([`read`]), every node is
//! checked against an allow-list and the claims of the issuer and becomes a [`test::Test`] ([`check`]), and what cannot be both
//! true and false is refused ([`sense`]). Evaluating a test cannot fail, and does no more work than the text is long.

mod check;
mod read;
mod sense;
mod test;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use shorepass_core::claims::{Claim, Claims};
use shorepass_core::condition::{Condition, Conditions};
use shorepass_core::job_issuer::JobIssuer;

use crate::test::{Test, Used};

/// Conditions written in CEL: `claims.ref == "main" && claims.run_attempt in ["1", "2"]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CelConditions;

impl Conditions for CelConditions {
    fn compile(&self, text: &str, issuer: &JobIssuer) -> Result<Arc<dyn Condition>, String> {
        let read = read::read(text)?;
        let (test, used) = check::check(&read, issuer)?;
        sense::check(&test, &used)?;
        Ok(Arc::new(Checked { text: text.to_owned(), test, used }))
    }
}

/// A condition that was checked.
struct Checked {
    text: String,
    test: Test,
    used: Vec<Used>,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

impl Condition for Checked {
    fn holds(&self, claims: &Claims) -> Result<(), String> {
        let mut values = Vec::with_capacity(self.used.len());
        for used in &self.used {
            let value = claims.get(&used.name);
            match value {
                Some(value) if value.kind() != used.kind => {
                    return Err(format!(
                        "the condition needs claims.{} as {}, and the token has it as {}",
                        used.name,
                        used.kind,
                        value.kind()
                    ));
                }
                None if used.needed => {
                    return Err(format!("the condition needs claims.{}, which the token lacks", used.name));
                }
                Some(_) | None => values.push(value),
            }
        }
        match self.test.holds(&values) {
            true => Ok(()),
            false => Err(format!("the condition does not hold with {}", told(&self.used, &values))),
        }
    }

    fn names(&self, claim: &str) -> bool {
        self.used.iter().any(|used| used.name == claim)
    }

    fn text(&self) -> &str {
        &self.text
    }
}

fn told(used: &[Used], values: &[Option<&Claim>]) -> String {
    let each = used.iter().zip(values).map(|(used, value)| match value {
        Some(value) => format!("claims.{} {value}", used.name),
        None => format!("no claims.{}", used.name),
    });
    each.collect::<Vec<_>>().join(", ")
}
