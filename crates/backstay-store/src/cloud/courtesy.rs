//! Keeps still while a server has asked for it.
//!
//! A server that is too busy says for how long it wants to be left alone. All requests of one client wait
//! then, each within its own attempt, so that a deadline holds all the same. Owns one instant behind a lock
//! that is never held across an await.

use super::Reach;
use super::paced::Paced;
use crate::pace::Pace;
use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// No server is left alone for longer than this, whatever it asks for.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Makes clients that keep still together.
#[derive(Debug, Clone)]
pub(super) struct Courtesy {
    quiet: Arc<Mutex<Option<Instant>>>,
    paced: Option<Paced>,
}

impl Courtesy {
    pub fn of(reach: &Reach) -> object_store::Result<Self> {
        let paced = reach.rates.upload.map(|rate| Paced::new(reach, Arc::new(Pace::new(rate)))).transpose();
        let unusable = |error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) };
        Ok(Self { quiet: Arc::default(), paced: paced.map_err(unusable)? })
    }

    fn quiet_until(&self) -> Option<Instant> {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, answer: &HttpResponse) {
        let busy = matches!(answer.status().as_u16(), 429 | 503);
        let asked = answer.headers().get("retry-after").filter(|_| busy).and_then(|value| value.to_str().ok());
        // A date instead of a number is rare, and the growing pauses serve there.
        let Some(seconds) = asked.and_then(|text| text.trim().parse().ok()) else { return };
        let until = Instant::now() + Duration::from_secs(seconds).min(QUIET_MAX);
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = quiet.max(Some(until));
    }
}

impl HttpConnector for Courtesy {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Courteous { client, courtesy: self.clone() }))
    }
}

#[derive(Debug)]
struct Courteous {
    client: HttpClient,
    courtesy: Courtesy,
}

#[async_trait]
impl HttpService for Courteous {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(until) = self.courtesy.quiet_until() {
            sleep_until(until).await;
        }
        let answer = match self.courtesy.paced.as_ref().filter(|paced| paced.is_for(&request)) {
            Some(paced) => paced.call(request).await?,
            None => self.client.execute(request).await?,
        };
        self.courtesy.heard(&answer);
        Ok(answer)
    }
}
