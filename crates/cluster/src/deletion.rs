//! What an answer to a DELETE says of the object that was to be deleted: that it is gone, that a finalizer holds it, or nothing.
//!
//! Only an answer about that very object counts. "Not found" and "success" are also said by what stands in between, and by an
//! API server that does not serve the path. Kubernetes tells a missing object and a deleted one by a Status whose `details`
//! name it, also where the whole namespace is missing; one that is held by the object itself, and so a ServiceAccount that is
//! gone. That it was made anew under its name is told by the UID that the delete demands. Of an object no more is read than
//! its metadata: the content comes after.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use shorepass_core::cluster::CutError;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::api_server::{ApiError, Refusal};
use crate::names::RBAC_GROUP;
use crate::refusal::cut_error;

/// What is made for leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    ServiceAccount,
    RoleBinding,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::RoleBinding => "RoleBinding",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ServiceAccount => "serviceaccounts",
            Self::RoleBinding => "rolebindings",
        }
    }

    /// Whether the answer to its delete is the object although it is gone.
    fn is_shown_when_gone(self) -> bool {
        match self {
            Self::ServiceAccount => true,
            Self::Secret | Self::RoleBinding => false,
        }
    }

    fn api(self) -> String {
        match self {
            Self::Secret | Self::ServiceAccount => "/api/v1".to_owned(),
            Self::RoleBinding => format!("/apis/{RBAC_GROUP}/v1"),
        }
    }
}

/// An object that is to be deleted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion<'a> {
    pub(crate) kind: Kind,
    pub(crate) namespace: &'a Name,
    pub(crate) name: &'a str,
    /// Empty if it is not known.
    pub(crate) uid: &'a str,
}

impl Deletion<'_> {
    pub(crate) fn path(&self) -> String {
        let Self { kind, namespace, name, .. } = self;
        format!("{}/namespaces/{namespace}/{}/{name}", kind.api(), kind.resource())
    }

    /// What the answer says of it. An answer that says nothing is none: the delete is to be sent again.
    pub(crate) fn outcome(&self, answer: Result<Zeroizing<Vec<u8>>, ApiError>) -> Result<(), CutError> {
        match answer {
            Ok(body) => self.of_success(&Head::of(&body)),
            Err(error) => cut_error(error, *self).map_or(Ok(()), Err),
        }
    }

    fn of_success(&self, head: &Head) -> Result<(), CutError> {
        match (head.kind.as_deref(), head) {
            (Some("Status"), Head { status: Some(status), details: Some(object), .. })
                if status == "Success" && object.kind == self.kind.resource() && self.is(object) =>
            {
                Ok(())
            }
            (Some(kind), Head { metadata: Some(object), .. })
                if kind == self.kind.name()
                    && object.namespace == self.namespace.as_str()
                    && self.is(object) =>
            {
                match object.deletion_timestamp {
                    Some(_) => Err(self.held()),
                    None if self.kind.is_shown_when_gone() => Ok(()),
                    // As it is shown to who reads it.
                    None => Err(self.untold()),
                }
            }
            _ => Err(self.untold()),
        }
    }

    fn is(&self, object: &Object) -> bool {
        let same_uid = self.uid.is_empty() || object.uid.is_empty() || self.uid == object.uid;
        object.name == self.name && same_uid
    }

    /// Whether the API server says of it that it is not there.
    pub(crate) fn is_missing(&self, refusal: &Refusal) -> bool {
        let Refusal { code, reason, kind, name, .. } = refusal;
        *code == 404 && reason == "NotFound" && kind == self.kind.resource() && name == self.name
    }

    /// Whether the API server says that what is there was made by somebody else after it was gone (`preconditions.uid`).
    pub(crate) fn is_another(&self, refusal: &Refusal) -> bool {
        let Refusal { code, reason, kind, name, message, .. } = refusal;
        let said = format!("the UID in the precondition ({}) does not match ", self.uid);
        *code == 409
            && reason == "Conflict"
            && kind == self.kind.name()
            && name == self.name
            && !self.uid.is_empty()
            && message.contains(&said)
    }

    /// Of an answer that is about something else, or says nothing.
    pub(crate) fn untold(&self) -> CutError {
        CutError::Unreachable(format!(
            "the answer to {self} does not say that it is gone: the issuer's operators must check the server's URL, \
             and what stands before it"
        ))
    }

    fn held(&self) -> CutError {
        let Self { kind, namespace, name, .. } = self;
        match kind {
            Kind::Secret => CutError::HeldByFinalizer(format!("{namespace}/{name}")),
            Kind::ServiceAccount | Kind::RoleBinding => {
                CutError::PartHeldByFinalizer(format!("{} {namespace}/{name}", kind.name()))
            }
        }
    }
}

impl fmt::Display for Deletion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        write!(f, "delete {} in namespace \"{namespace}\" (\"{name}\")", kind.resource())
    }
}

/// Whether so much of an answer is there that it tells what became of the object.
pub(crate) fn is_enough(beginning: &[u8]) -> bool {
    Head::of(beginning).is_enough()
}

/// The fields of a successful answer that were read so far.
#[derive(Default)]
struct Head {
    kind: Option<String>,
    /// Of a Status.
    status: Option<String>,
    /// Of a Status.
    details: Option<Object>,
    metadata: Option<Object>,
}

impl Head {
    fn of(beginning: &[u8]) -> Self {
        let mut head = Self::default();
        // What is cut off is an error, and what was read before it counts.
        let _ = DeserializeSeed::deserialize(&mut head, &mut serde_json::Deserializer::from_slice(beginning));
        head
    }

    fn is_enough(&self) -> bool {
        match self.kind.as_deref() {
            None => false,
            Some("Status") => self.status.is_some() && self.details.is_some(),
            Some(_) => self.metadata.is_some(),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Head {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Status or an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while !self.is_enough()
            && let Some(field) = map.next_key::<Cow<'de, str>>()?
        {
            match field.as_ref() {
                "kind" => self.kind = Some(map.next_value()?),
                "status" => self.status = Some(map.next_value()?),
                "details" => self.details = Some(map.next_value()?),
                "metadata" => self.metadata = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What is said of the object: the `details` of a Status, or its own metadata.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    name: String,
    namespace: String,
    uid: String,
    /// Of a Status.
    kind: String,
    deletion_timestamp: Option<Timestamp>,
}

#[cfg(test)]
mod tests;
