//! Records and frames as real encoders make them: ffmpeg 5.1 of Debian 12 with the libraries named below, from
//! `-f lavfi -i testsrc=size=WxH:rate=R -frames:v 3`, `sine`, or (small frames) `color=black:size=64x64:rate=25`.
//! Records are `ffprobe -show_streams -show_data`, frames `-show_packets -show_data`, written in hexadecimal.

/// The bytes of a sample.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("a sample is hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// libx264 avcC: name, record, width, height, fps, interlaced, chroma format, bit depth.
pub(super) type Avc = (&'static str, &'static str, u32, u32, f64, bool, u8, u8);
pub(super) const AVC: [Avc; 9] = [
    (
        "-profile:v baseline",
        "0142c015ffe100196742c015d901b1fe4f011000000300100000030320f162e48001000568cb83cb20",
        426,
        240,
        25.0,
        false,
        1,
        8,
    ),
    (
        "-profile:v main",
        "014d401effe10018674d401eeca05017f536022000007d20001d4c01e2c5b2c001000568ebe3cb20",
        638,
        358,
        30_000.0 / 1001.0,
        false,
        1,
        8,
    ),
    (
        "-flags +ildct+ilme -x264-params interlaced=1:tff=1",
        "0164001effe100186764001eacd940b424d8088000000300800000190f8a14cb01000668fba3cb22c0fdf8f800",
        720,
        576,
        25.0,
        true,
        1,
        8,
    ),
    (
        "-pix_fmt yuv422p -x264-params interlaced=1",
        "017a0015ffe1001b677a0015bcd941510f1111808800000300080000030180f8a14cb001000668fba3cb22c0fef8f800",
        322,
        242,
        24.0,
        true,
        2,
        8,
    ),
    (
        "-x264-params cqm=jvt:colorprim=bt709:sar=4/3:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500",
        "0164000dffe100286764000dacd94150878888c39a8081012000000300200000060c04003d08000f425261803c50a65801000768ebe3cb3002c0fdf8f800",
        322,
        242,
        24.0,
        false,
        1,
        8,
    ),
    (
        "-pix_fmt yuv444p",
        "01f4000dffe1001967f4000d919b282833f1780880000003008000001e078a14cb01000668ebe3c44844fff8f800",
        320,
        182,
        30.0,
        false,
        3,
        8,
    ),
    (
        "-pix_fmt yuv422p10le",
        "017a0015ffe1001b677a0015b6cd941519e2237011000003000100000300640f162d9601000668ebe3cb22c0fefafa00",
        322,
        180,
        50.0,
        false,
        2,
        10,
    ),
    (
        "-pix_fmt yuv420p10le",
        "016e002affe1001b676e002aa6cd940780227e5c0440000003004000001e03c60c658001000668ebe3cb22c0fdfafa00",
        1920,
        1080,
        60.0,
        false,
        1,
        10,
    ),
    (
        "-pix_fmt gray",
        "0164000affe100196764000af3651cfe363f016c80000003008000000a078912cb01000668ebe3cb22c0fcf8f800",
        100,
        98,
        10.0,
        false,
        0,
        8,
    ),
];

/// libx265 hvcC, of which the SEI array with the encoder's options is cut off: name, record, width, height, fps, level,
/// chroma format, bit depth.
pub(super) type Hevc = (&'static str, &'static str, u32, u32, f64, u8, u8, u8);
pub(super) const HEVC: [Hevc; 4] = [
    (
        "-pix_fmt yuv420p",
        "0101600000009000000000003cf000fcfdf8f800000f03a00001001840010c01ffff01600000030090000003000003003c959809a10001002b42010101600000030090000003000003003ca00d880f1c9e5959a4932bc05a020000030002000003003210a2000100074401c172b46240",
        426,
        240,
        25.0,
        60,
        1,
        8,
    ),
    (
        "-pix_fmt yuv420p10le",
        "01022000000090000000000078f000fcfdfafa00000f03a00001001840010c01ffff022000000300900000030000030078959809a10001002b420101022000000300900000030000030078a003c08010e754d96566924caf01680800001f480003a98040a2000100074401c172b46240",
        1918,
        1078,
        30_000.0 / 1001.0,
        120,
        1,
        10,
    ),
    (
        "-pix_fmt yuv444p",
        "0104080000009e08000000003cf000fcfff8f800000f03a00001001740010c01ffff0408000003009e0800000300003c959809a10001002a4201010408000003009e0800000300003c9001410173ef2cacd24995e02d010000030001000003001e08a2000100084401c172860c4624",
        320,
        182,
        30.0,
        60,
        3,
        8,
    ),
    (
        "-pix_fmt yuv422p10le -x265-params scaling-list=default:level-idc=5.1:high-tier=1:colorprim=bt709:temporal-layers=1",
        "0124080000009d080000000099f000fcfefafa00001303a00001001b40010c02ffff2408000003009d0800000300009900009598acc048a1000100314201022408000003009d080000030000990000b005b20199c93b659598acd249caf016a020404080000003008000000f04a2000100074401c172b46240",
        722,
        402,
        30.0,
        153,
        2,
        10,
    ),
];

/// libaom-av1 of 426x240.
pub(super) const AV1C_AOM: &str = "81000c000a0b000000043ea7bcdaf90040";
/// libsvtav1 of 642x362, `-pix_fmt yuv420p10le`.
pub(super) const AV1C_SVT: &str = "81014c000a0b0000000cc5036900be1010";
/// libvpx-vp9 of 64x64 in MP4: the contents of its vpcC box.
pub(super) const VPCC: &str = "01000000000a820202020000";
/// ffmpeg's aac at 44,100 Hz stereo, 48,000 Hz mono and 48,000 Hz 5.1.
pub(super) const ASC: [(&str, u32, u8); 3] =
    [("121056e500", 44_100, 2), ("118856e500", 48_000, 1), ("11b056e500", 48_000, 6)];
/// The first one's stream as ADTS: its first header.
pub(super) const ADTS: &str = "fff150802b3ffc";
/// libopus, stereo and 5.1 with `-mapping_family 1`.
pub(super) const OPUS: [(&str, u8); 2] =
    [("4f707573486561640102380180bb0000000000", 2), ("4f707573486561640106380180bb00000000010402000401020305", 6)];

/// libx264 with `-x264-params intra-refresh=1:keyint=8:bframes=0`: the IDR slice alone, a P frame, a recovery point.
pub(super) const H264_FRAMES: [(&str, bool); 3] = [
    ("0000001f6588840cfffef6ecbe053614c85097112cc5a67efde440d91520870731c441", true),
    ("00000009419a26219ffe9e2df0", false),
    ("0000000506060171800000001b419b06219fc766b3cb9965a9620c77ed66795f47d8ba160c439b80", true),
];
/// libx265: IDR, P, B.
pub(super) const H265_FRAMES: [(&str, bool); 3] = [
    ("0000000e2801af1d80f701b2fffd232fb33c", true),
    ("0000000b0201d0115784318e40fa84", false),
    ("0000000a0001e024bf8614c0c820", false),
];
/// libaom-av1: sequence header and key frame, then others.
pub(super) const AV1_FRAMES: [(&str, bool); 2] = [
    ("0a0a00000002afff9b5f2008320e10009680000200000000ebc68ef0", true),
    ("32113003c080000006c0000002800020009910", false),
];
/// libvpx-vp9.
pub(super) const VP9_FRAMES: [(&str, bool); 2] = [
    ("824983420003f003f60038241c184a000030600000673fffff564564eecc00", true),
    ("860040929c00500000032000005470", false),
];
/// libvpx.
pub(super) const VP8_FRAMES: [(&str, bool); 2] = [
    ("f002009d012a4000400000470885858885848802020006703c42600ab220f73000feffab5080", true),
    ("d101000510ac00180018582ff400088e8000", false),
];

/// ffmpeg 9.0's own encoder, `-sample_fmt s16` or `s32`, three frames of `sine`: STREAMINFO, rate, channels, bits, samples of a block.
pub(super) const FLAC: [(&str, u32, u8, u8, u16); 3] = [
    ("040004000001510001730bb802f000000c0007efccfa4bbc4230ac64c411665cb275", 48_000, 2, 16, 1024),
    ("0400040000014a0001750ac440f000000c00bd5333293d676de8d539028243a152b3", 44_100, 1, 16, 1024),
    ("0400040000051300055217700b7000000c000abc040c56ce377b68955662bbc6f590", 96_000, 6, 24, 1024),
];
/// How the first two frames of each begin, and their samples.
pub(super) const FLAC_FRAMES: [(&str, u32); 6] = [
    ("fff8aa88005b4c000000a6014c01f202", 1024),
    ("fff8aa88015c4c076406e3065c05cf05", 1024),
    ("fff8a90800504c0000010001ff02fd03", 1024),
    ("fff8a90801574e0fa60fd30ff10ffe0f", 1024),
    ("fff8ab5c00de00000000000000004c00", 1024),
    ("fff8ab5c01d900000000000000004ef1", 1024),
];
