//! The protocols of this node, a row each. A new one is a folder, a dependency line and a row here.

use culvert_hub::{Gate, Hub, Pace};
use culvert_live::Live;
use culvert_rtmp::{Limits, Rtmp};

/// What the door can hand a connection to.
#[derive(Clone)]
pub struct Protocols {
    /// What they all serve, and whose tasks theirs are.
    pub hub: Hub,
    /// RTMP and RTMPS.
    pub rtmp: Rtmp,
    /// HTTP-FLV and WS-FLV.
    pub live: Live,
}

impl Protocols {
    /// All of them, behind one gate.
    pub fn new(gate: &Gate, pace: Pace, limits: Limits) -> Protocols {
        Protocols {
            hub: gate.hub().clone(),
            rtmp: Rtmp::new(gate.clone(), pace, limits),
            live: Live::new(gate.clone(), pace, culvert_m7s::push::without_doubled_headers),
        }
    }
}
