//! A body in one piece, for what goes in one message.

use bytes::{Bytes, BytesMut};
use culvert_link::{Body, BoxError};
use http_body_util::BodyExt;
use thiserror::Error;

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum GatherError {
    #[error("it is larger than {0} bytes")]
    Large(usize),
    #[error("it broke off: {0}")]
    Broken(BoxError),
}

/// All of it, at most `most` bytes.
pub(crate) async fn gather(mut body: Body, most: usize) -> Result<Bytes, GatherError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(GatherError::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if all.len() + data.len() > most {
            return Err(GatherError::Large(most));
        }
        all.extend_from_slice(data);
    }
    Ok(all.freeze())
}
