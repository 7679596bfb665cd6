//! Puts that go out at a pace, piece by piece.
//!
//! The client library hands a body over whole and asks nobody between its pieces. Where a pace is set, what carries an
//! object therefore goes through a client of our own: made with the same certificates and times, over a body that waits for
//! its turn before each piece. The request is signed by then, condition and all, and nothing of it is changed.

use super::{CONNECT_TIME, Reach, Transport};
use crate::pace::Pace;
use bytes::Bytes;
use futures::FutureExt;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep_until};

/// What a server may say to a put.
const ANSWER_MAX: usize = 1 << 20;

/// Sends what carries an object.
#[derive(Debug, Clone)]
pub(super) struct Paced {
    client: reqwest::Client,
    pace: Arc<Pace>,
}

#[derive(Debug, thiserror::Error)]
#[error("the answer is too long")]
struct TooLong;

impl Paced {
    pub fn new(reach: &Reach, pace: Arc<Pace>) -> Result<Self, reqwest::Error> {
        let certificates = match &reach.ca_pem {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem)?,
            None => Vec::new(),
        };
        let client = reqwest::Client::builder()
            .https_only(reach.transport == Transport::TlsOnly)
            .connect_timeout(CONNECT_TIME.min(reach.request_time))
            .timeout(reach.request_time)
            .tls_certs_merge(certificates)
            .build()?;
        Ok(Self { client, pace })
    }

    /// Whether there is anything to pace.
    pub fn is_for(&self, request: &HttpRequest) -> bool {
        request.body().content_length() > 0
    }

    pub async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let failed = |error| HttpError::new(HttpErrorKind::Request, error);
        let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(PacedBody::new(body, self.pace.clone())));
        let mut answer = self.client.execute(request).await.map_err(failed)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut said = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            said.extend_from_slice(&part);
            if said.len() > ANSWER_MAX {
                return Err(HttpError::new(HttpErrorKind::Decode, TooLong));
            }
        }
        let mut answer = HttpResponse::new(Bytes::from(said).into());
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }
}

/// A body that takes its turn before each piece.
struct PacedBody<B> {
    inner: B,
    pace: Arc<Pace>,
    /// The next piece, and when it may go.
    next: Option<(Frame<Bytes>, Pin<Box<Sleep>>)>,
}

impl<B> PacedBody<B> {
    fn new(inner: B, pace: Arc<Pace>) -> Self {
        Self { inner, pace, next: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for PacedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if this.next.is_none() {
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            let turn = this.pace.reserve(frame.data_ref().map_or(0, |data| data.len() as u64));
            this.next = Some((frame, Box::pin(sleep_until(turn))));
        }
        if let Some((_, turn)) = &mut this.next {
            ready!(turn.poll_unpin(cx));
        }
        Poll::Ready(this.next.take().map(|(frame, _)| Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.next.as_ref().and_then(|(frame, _)| frame.data_ref()).map_or(0, |data| data.len() as u64);
        match self.inner.size_hint().exact() {
            Some(left) => SizeHint::with_exact(left + waiting),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::{PIECE, pieces};
    use futures::future::{join_all, poll_fn};
    use object_store::PutPayload;
    use object_store::client::HttpRequestBody;
    use std::num::NonZeroU64;
    use std::time::Duration;
    use tokio::time::Instant;

    const RATE: u64 = 1 << 20;

    /// The bytes of an object with the time at which each piece went.
    async fn sent(body: HttpRequestBody, pace: Arc<Pace>) -> Vec<(Instant, usize)> {
        let (mut body, mut pieces) = (PacedBody::new(body, pace), Vec::new());
        let mut left = body.size_hint().exact().expect("its length is known");
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let len = frame.expect("a piece").data_ref().expect("of data").len();
            left -= len as u64;
            assert_eq!(body.size_hint().exact(), Some(left));
            pieces.push((Instant::now(), len));
        }
        assert!(body.is_end_stream() && left == 0);
        pieces
    }

    fn object(len: usize) -> HttpRequestBody {
        PutPayload::from_iter(pieces(vec![7; len].into())).into()
    }

    /// The most that went within any second.
    fn most_in_a_second(pieces: &[(Instant, usize)]) -> usize {
        let within =
            |begin: Instant| pieces.iter().filter(move |(at, _)| *at >= begin && *at < begin + Duration::from_secs(1));
        pieces.iter().map(|(begin, _)| within(*begin).map(|(_, len)| len).sum()).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pack_goes_out_evenly_and_not_in_one_burst() {
        let pace = Arc::new(Pace::new(NonZeroU64::new(RATE).expect("not zero")));
        let begun = Instant::now();
        let pieces = sent(object(32 << 20), pace).await;
        assert_eq!(pieces.iter().map(|(_, len)| len).sum::<usize>(), 32 << 20);
        assert!((31..=32).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        let most = most_in_a_second(&pieces);
        assert!(most <= RATE as usize + 2 * PIECE, "{most} bytes in a second");
    }

    #[tokio::test(start_paused = true)]
    async fn packs_beside_each_other_share_the_line() {
        let pace = Arc::new(Pace::new(NonZeroU64::new(RATE).expect("not zero")));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let begun = Instant::now();
        let all = join_all((0..3).map(|_| sent(object(4 << 20), pace.clone()))).await;
        assert!((10..=12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        for pieces in &all {
            let last = pieces.last().expect("some").0;
            assert!(last - begun > Duration::from_secs(8), "none went before the others");
        }
        let pieces: Vec<(Instant, usize)> = all.into_iter().flatten().collect();
        let most = most_in_a_second(&pieces);
        assert!(most <= 2 * RATE as usize + 4 * PIECE, "a second of silence may be saved up: {most}");
    }
}
