//! The body of a request.

use axum::BoxError;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt as _;
use service_kit::status::{Reason, request_too_large};
use tonic::Status;

/// Reads a body of JSON of at most so many bytes.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Vec<u8>, Status>
where
    B: Body<Data: AsRef<[u8]>, Error: Into<BoxError>> + Unpin,
{
    check_type(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let announced = announced.unwrap_or_default();
    if announced > limit {
        return Err(request_too_large(limit));
    }
    let mut body = body;
    let mut read = Vec::with_capacity(announced.min(limit));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(lost)?;
        let Ok(data) = frame.into_data() else { continue };
        let data = data.as_ref();
        if read.len() + data.len() > limit {
            return Err(request_too_large(limit));
        }
        read.extend_from_slice(data);
    }
    Ok(read)
}

/// What became of a body that did not come to its end: a layer has cut it off and says why, or the client has.
fn lost(error: impl Into<BoxError>) -> Status {
    let cut_off = Status::try_from_error(error.into()).ok().filter(|status| Reason::of(status).is_some());
    cut_off
        .unwrap_or_else(|| Reason::InvalidRequest.status("the body ended before its announced end").build())
}

/// Only JSON, and as it is. A browser sends it to another origin after asking for leave alone, which other types need not.
fn check_type(headers: &HeaderMap) -> Result<(), Status> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_ascii_lowercase).unwrap_or_default();
    let content_type = headers.get(CONTENT_TYPE).map(text).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence != "application/json" {
        return Err(unsupported("content-type", "must be application/json"));
    }
    let encoding = headers.get(CONTENT_ENCODING).map_or_else(|| "identity".to_owned(), text);
    if encoding != "identity" {
        return Err(unsupported("content-encoding", "must be identity"));
    }
    Ok(())
}

fn unsupported(header: &str, rule: &str) -> Status {
    Reason::UnsupportedMediaType.status(format!("{header}: {rule}")).field(header, rule).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use service_kit::status::reason_of;

    type Bytes = <tonic::body::Body as Body>::Data;

    fn headers(fields: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let json = [(CONTENT_TYPE, "application/json")];
        let fields = json.iter().chain(fields);
        fields.map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    async fn refused(fields: &[(http::HeaderName, &'static str)], body: &'static str) -> Option<String> {
        let body = Full::new(Bytes::from_static(body.as_bytes()));
        let mut sent = HeaderMap::new();
        for (name, value) in headers(fields) {
            sent.insert(name.unwrap_or(CONTENT_TYPE), value);
        }
        read(&sent, body, 4).await.err().and_then(|status| reason_of(&status))
    }

    #[tokio::test]
    async fn only_json_of_the_right_size_is_read() {
        let too_large = Some("REQUEST_TOO_LARGE".to_owned());
        let unsupported = Some("UNSUPPORTED_MEDIA_TYPE".to_owned());
        assert_eq!(refused(&[], "1234").await, None);
        assert_eq!(refused(&[(CONTENT_TYPE, "Application/JSON; charset=utf-8")], "1234").await, None);
        assert_eq!(refused(&[], "12345").await, too_large);
        assert_eq!(refused(&[(CONTENT_LENGTH, "5")], "1").await, too_large);
        assert_eq!(refused(&[(CONTENT_LENGTH, "99999999")], "1").await, too_large);
        assert_eq!(refused(&[(CONTENT_TYPE, "text/plain")], "1").await, unsupported);
        assert_eq!(refused(&[(CONTENT_TYPE, "application/jsonp")], "1").await, unsupported);
        assert_eq!(refused(&[(CONTENT_ENCODING, "gzip")], "1").await, unsupported);
    }
}
