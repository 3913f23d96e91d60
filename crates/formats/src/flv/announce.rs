//! What `onMetaData` announces: whether there will be pictures and sound.

use crate::amf0::{self, Value};

/// What the publisher says it is going to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) video: bool,
    pub(super) audio: bool,
}

/// Reads a script tag's body or an RTMP data message: none if it is not metadata, or if it says nothing of this.
pub(super) fn read(mut body: &[u8]) -> Result<Option<Announced>, amf0::Error> {
    let mut name = amf0::decode(&mut body)?;
    // RTMP's way to say "and keep it for those who come later".
    if name.as_str() == Some("@setDataFrame") {
        name = amf0::decode(&mut body)?;
    }
    if name.as_str() != Some("onMetaData") {
        return Ok(None);
    }
    let metadata = amf0::decode(&mut body)?;
    let announced = Announced {
        video: says(&metadata, "hasVideo", "videocodecid", "width"),
        audio: says(&metadata, "hasAudio", "audiocodecid", "audiosamplerate"),
    };
    Ok(Some(announced).filter(|a| a.video || a.audio))
}

/// The codec's name decides; a measure does where there is none. m7s writes both of tracks that it does not have, but
/// says so in a third property.
fn says(metadata: &Value, has: &str, codec: &str, measure: &str) -> bool {
    metadata.get(has).and_then(Value::as_bool) != Some(false)
        && match metadata.get(codec) {
            Some(Value::Number(id)) => *id > 0.0,
            Some(Value::String(id)) => !id.is_empty(),
            Some(
                Value::Bool(_)
                | Value::Object(_)
                | Value::Null
                | Value::Undefined
                | Value::EcmaArray(_)
                | Value::StrictArray(_)
                | Value::Date(_),
            )
            | None => metadata.get(measure).and_then(Value::as_f64).is_some_and(|n| n > 0.0),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(properties: &[(&str, Value)]) -> Option<Announced> {
        let mut body = Vec::new();
        Value::from("@setDataFrame").encode(&mut body);
        Value::from("onMetaData").encode(&mut body);
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Value::EcmaArray(properties).encode(&mut body);
        read(&body).unwrap()
    }

    #[test]
    fn codecs_decide_then_measures_and_a_denial_is_believed() {
        let both = Some(Announced { video: true, audio: true });
        let video = Some(Announced { video: true, audio: false });
        assert_eq!(announced(&[("videocodecid", 7.0.into()), ("audiocodecid", "mp4a".into())]), both);
        assert_eq!(announced(&[("width", 640.0.into()), ("audiosamplerate", 44_100.0.into())]), both);
        assert_eq!(announced(&[("width", 640.0.into()), ("audiocodecid", 0.0.into())]), video);
        let denied = [("width", 640.0.into()), ("audiocodecid", 10.0.into()), ("hasAudio", false.into())];
        assert_eq!(announced(&denied), video);
        assert_eq!(announced(&[("encoder", "x".into())]), None);
    }

    #[test]
    fn other_script_data_is_not_metadata() {
        let mut body = Vec::new();
        Value::from("onCuePoint").encode(&mut body);
        assert_eq!(read(&body), Ok(None));
        assert_eq!(read(&[2, 0]), Err(amf0::Error::Short));
    }
}
