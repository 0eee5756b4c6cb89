//! Where the keys of one issuer come from: its discovery document and its key set, remembered for a while.
//!
//! Both may be elsewhere than `iss` says ([`Places`]): only the configuration says where, and the document still has to be of
//! that `iss`. Keys are fetched when a token needs them, never because a caller names a place. A token that names an unknown key makes
//! us look again, and as anybody can make such a token, not more often than [`Pace::floor`]. When the issuer does not
//! answer, the keys that are known go on for [`Pace::longest`]; after that a key that it has withdrawn might still be among
//! them. One fetch at a time, in a task of its own: a caller who goes away does not take it along.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after, until};
use tokio::sync::Mutex;
use tracing::warn;

use crate::error::{Fault, TokenError, shown};
use crate::https::{Client, Place};
use crate::json::{Json, Object};
use crate::keys::{KeySet, Unfit};

/// How often keys are fetched, and how long they are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Not more often than this.
    pub(crate) floor: Duration,
    /// Older keys are fetched again before they are used.
    pub(crate) ceiling: Duration,
    /// Older keys are not used even if no others can be had.
    pub(crate) longest: Duration,
}

impl Pace {
    /// Of real issuers.
    pub(crate) const USUAL: Self = Self {
        floor: Duration::from_secs(10),
        ceiling: Duration::from_secs(60 * 60),
        longest: Duration::from_secs(24 * 60 * 60),
    };
}

/// Where the documents of one issuer are, if not where its URL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The whole URL of its discovery document.
    pub discovery_url: Option<String>,
    /// Where its keys may be besides the host and port of its discovery document: `host:port`.
    pub keys_host: Option<String>,
    /// The whole URL of its keys: what its discovery document says of them is not looked at.
    pub keys_url: Option<String>,
}

/// The keys of one issuer.
pub(crate) struct Source {
    name: Name,
    /// The issuer's URL, as its discovery document must say it.
    url: String,
    discovery: Place,
    keys: Keys,
    client: Client,
    pace: Pace,
    known: RwLock<Known>,
    flight: Arc<Mutex<()>>,
}

/// Where the keys are.
enum Keys {
    /// There.
    At(Place),
    /// Where the discovery document says, at one of these hosts.
    Among(Vec<String>),
}

#[derive(Clone, Default)]
struct Known {
    keys: Option<Fetched>,
    tried: Option<Timestamp>,
    /// Why the last try failed.
    failure: Option<String>,
}

#[derive(Clone)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Timestamp,
}

/// What came of looking for new keys.
enum Refreshed {
    Fetched,
    Failed(String),
    /// The last try was not long enough ago.
    TooSoon(Duration),
}

impl Source {
    /// The keys of the issuer of that URL.
    pub(crate) fn new(
        name: Name,
        url: &str,
        places: &Places,
        client: Client,
        pace: Pace,
    ) -> Result<Self, String> {
        let usual = || format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
        let discovery = Place::parse(&places.discovery_url.clone().unwrap_or_else(usual))?;
        let keys = match &places.keys_url {
            Some(url) => Keys::At(Place::parse(url)?),
            None => {
                let more = places.keys_host.as_ref().map(|host| Place::parse(&format!("https://{host}/")));
                let places = [Some(discovery.clone()), more.transpose()?];
                Keys::Among(places.iter().flatten().map(Place::authority).collect())
            }
        };
        let (known, flight) = (RwLock::default(), Arc::default());
        Ok(Self { name, url: url.to_owned(), discovery, keys, client, pace, known, flight })
    }

    /// The key for a token that names this one and was signed in this way.
    pub(crate) async fn key(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<DecodingKey, TokenError> {
        if let Some(fetched) =
            self.known().keys.filter(|fetched| self.is_young(fetched, self.pace.ceiling, now))
        {
            match fetched.keys.select(kid, algorithm) {
                Ok(key) => return Ok(key.clone()),
                Err(Unfit::Key(why)) => return Err(Fault::Signature.because(why)),
                Err(Unfit::Unknown(_)) => {}
            }
        }
        let refreshed = self.refresh(now).await;
        let known = self.known().keys.filter(|fetched| self.is_young(fetched, self.pace.longest, now));
        let selected = known.as_ref().map(|fetched| fetched.keys.select(kid, algorithm));
        match (selected, refreshed) {
            (Some(Ok(key)), _) => Ok(key.clone()),
            (Some(Err(Unfit::Key(why))), _) => Err(Fault::Signature.because(why)),
            (Some(Err(Unfit::Unknown(why))), Refreshed::Fetched) => Err(Fault::Signature.because(why)),
            (Some(Err(Unfit::Unknown(why))), Refreshed::TooSoon(wait)) => Err(self.unavailable(why, wait)),
            (_, Refreshed::Failed(why)) => Err(self.unavailable(why, self.pace.floor)),
            (None, Refreshed::TooSoon(wait)) => {
                let why = self.known().failure.unwrap_or_else(|| "they were asked for just now".to_owned());
                Err(self.unavailable(why, wait))
            }
            (None, Refreshed::Fetched) => {
                Err(self.unavailable("the clock was set back in between".to_owned(), self.pace.floor))
            }
        }
    }

    fn unavailable(&self, explanation: String, retry_after: Duration) -> TokenError {
        TokenError::Unavailable { issuer: self.name.clone(), explanation, retry_after }
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether they are of that age at most. Keys from the future were fetched by a clock that was wrong.
    fn is_young(&self, fetched: &Fetched, age: Duration, now: Timestamp) -> bool {
        now >= fetched.at && now < after(fetched.at, age)
    }

    /// Looks for new keys, if nobody did a moment ago.
    async fn refresh(self: &Arc<Self>, now: Timestamp) -> Refreshed {
        let seen = self.known().keys.map(|fetched| fetched.at);
        let turn = Arc::clone(&self.flight).lock_owned().await;
        let known = self.known();
        if known.keys.as_ref().map(|fetched| fetched.at) != seen {
            return Refreshed::Fetched;
        }
        if let Some(tried) = known.tried.filter(|tried| *tried <= now) {
            let wait = until(now, after(tried, self.pace.floor));
            if !wait.is_zero() {
                return Refreshed::TooSoon(wait);
            }
        }
        let source = Arc::clone(self);
        let fetch = tokio::spawn(async move {
            source.change(|known| known.tried = Some(now));
            let fetched = source.fetch().await;
            source.change(|known| known.take(fetched.as_ref(), now));
            if let Err(cause) = &fetched {
                warn!(issuer = %source.name, error = cause.as_str(), "the keys of a token issuer cannot be fetched");
            }
            drop(turn);
            fetched.map(drop)
        });
        match fetch.await {
            Ok(Ok(())) => Refreshed::Fetched,
            Ok(Err(cause)) => Refreshed::Failed(cause),
            Err(_) => Refreshed::Failed("the fetch was stopped".to_owned()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    async fn fetch(&self) -> Result<Arc<KeySet>, String> {
        let document = self.client.get(&self.discovery).await?;
        let place = self.keys_place(&document).map_err(|what| format!("its discovery document: {what}"))?;
        let keys = self.client.get(&place).await?;
        KeySet::parse(&keys).map(Arc::new).map_err(|what| format!("its key set: {what}"))
    }

    fn keys_place(&self, document: &[u8]) -> Result<Place, String> {
        let document = Object::parse(document)?;
        match document.get("issuer").and_then(Json::text) {
            Some(issuer) if issuer == self.url => {}
            Some(other) => return Err(format!("it is of issuer {}, not of {:?}", shown(other), self.url)),
            None => return Err("it names no issuer".to_owned()),
        }
        let authorities = match &self.keys {
            Keys::At(place) => return Ok(place.clone()),
            Keys::Among(authorities) => authorities,
        };
        let uri = document.get("jwks_uri").and_then(Json::text).ok_or("it has no jwks_uri")?;
        let place = Place::parse(uri)?;
        match authorities.contains(&place.authority()) {
            true => Ok(place),
            false => Err(format!(
                "its keys are said to be at {}, and may only be at {}: if that is right, write it as keysHost",
                shown(&place.authority()),
                authorities.join(" or ")
            )),
        }
    }
}

impl Known {
    fn take(&mut self, fetched: Result<&Arc<KeySet>, &String>, now: Timestamp) {
        match fetched {
            Ok(keys) => {
                self.keys = Some(Fetched { keys: Arc::clone(keys), at: now });
                self.failure = None;
            }
            Err(cause) => self.failure = Some(cause.clone()),
        }
    }
}
