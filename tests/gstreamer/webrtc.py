"""GStreamer's webrtcbin as a peer, with the certificate of RSA that it makes itself.

webrtc.py whep|whip|forged URL SECONDS: plays, or publishes a ball and a tone, or does so with another fingerprint in its offer than that of its
certificate; then prints as JSON what came of it. Exits with 77 where GStreamer or a plugin is missing.
"""

import json
import re
import sys
import urllib.error
import urllib.request

try:
    import gi

    for name in ("Gst", "GstWebRTC", "GstSdp"):
        gi.require_version(name, "1.0")
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC
except (ImportError, ValueError) as why:
    print(why, file=sys.stderr)
    sys.exit(77)

Gst.init(None)
NEEDED = ("webrtcbin", "nicesrc", "dtlssrtpdec", "x264enc", "opusenc", "avdec_h264", "opusdec", "rtph264pay", "rtpopuspay")
MISSING = [name for name in NEEDED if not Gst.ElementFactory.find(name)]
if MISSING:
    print("GStreamer has no " + ", ".join(MISSING), file=sys.stderr)
    sys.exit(77)

OFFERED = (
    "application/x-rtp,media=video,encoding-name=H264,payload=97,clock-rate=90000,packetization-mode=(string)1,"
    "profile-level-id=(string)42e01f,rtcp-fb-nack=(boolean)true,rtcp-fb-nack-pli=(boolean)true",
    "application/x-rtp,media=audio,encoding-name=OPUS,payload=96,clock-rate=48000,encoding-params=(string)2",
)
PUBLISHED = (
    "webrtcbin name=w bundle-policy=max-bundle "
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=25/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! video/x-h264,profile=constrained-baseline ! "
    "rtph264pay config-interval=-1 aggregate-mode=zero-latency ! application/x-rtp,media=video,encoding-name=H264,payload=97 ! w. "
    "audiotestsrc is-live=true ! audio/x-raw,channels=2,rate=48000 ! opusenc ! rtpopuspay ! "
    "application/x-rtp,media=audio,encoding-name=OPUS,payload=96 ! w."
)

mode, url, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = {"status": 0, "state": "new", "video": 0, "audio": 0}
loop = GLib.MainLoop()

if mode == "whep":
    pipe = Gst.Pipeline.new("pipe")
    peer = Gst.ElementFactory.make("webrtcbin", "w")
    peer.set_property("bundle-policy", "max-bundle")
    pipe.add(peer)
    for caps in OFFERED:
        peer.emit("add-transceiver", GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY, Gst.Caps.from_string(caps))
else:
    pipe = Gst.parse_launch(PUBLISHED)
    peer = pipe.get_by_name("w")


def count(kind):
    def one(*_):
        told[kind] += 1

    return one


def decoded(_, pad):
    sink = Gst.ElementFactory.make("fakesink")
    sink.set_property("signal-handoffs", True)
    sink.set_property("sync", False)
    sink.connect("handoff", count(pad.get_current_caps().to_string().split("/")[0]))
    pipe.add(sink)
    sink.sync_state_with_parent()
    pad.link(sink.get_static_pad("sink"))


def came(_, pad):
    if pad.direction != Gst.PadDirection.SRC:
        return
    decoder = Gst.ElementFactory.make("decodebin")
    decoder.connect("pad-added", decoded)
    pipe.add(decoder)
    decoder.sync_state_with_parent()
    pad.link(decoder.get_static_pad("sink"))


def post():
    offer = peer.get_property("local-description").sdp.as_text()
    if mode == "forged":
        other = lambda found: found[1] + ("01" if found[2] == "00" else "00")
        offer = re.sub(r"(a=fingerprint:sha-256 )(..)", other, offer)
    request = urllib.request.Request(url, offer.encode(), {"Content-Type": "application/sdp"})
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as why:
        told.update(status=why.code, state=why.read().decode())
        loop.quit()
        return
    told["status"] = answer.status
    _, sdp = GstSdp.SDPMessage.new_from_text(answer.read().decode())
    answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp)
    peer.emit("set-remote-description", answer, Gst.Promise.new())


posted = []


def gathered(*_):
    complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
    if peer.get_property("ice-gathering-state") == complete and not posted:
        posted.append(True)
        GLib.idle_add(post)


def offered(promise, *_):
    promise.wait()
    # The offer lives as long as the reply that it is in.
    reply = promise.get_reply()
    offer = reply.get_value("offer")
    peer.emit("set-local-description", offer, Gst.Promise.new())


asked = []


def ask(*_):
    if not asked:
        asked.append(True)
        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(offered, None))


def changed(*_):
    told["state"] = peer.get_property("connection-state").value_nick


# By itself it leaves the loopback out, and a machine may have nothing else.
agent = peer.get_property("ice-agent")
agent.emit("add-local-ip-address", "127.0.0.1")
peer.connect("pad-added", came)
peer.connect("notify::ice-gathering-state", gathered)
peer.connect("notify::connection-state", changed)
peer.connect("on-negotiation-needed", ask)
pipe.set_state(Gst.State.PLAYING)
if mode == "whep":
    # It says that there is something to agree upon before anybody listens.
    GLib.timeout_add(300, ask)
GLib.timeout_add_seconds(seconds, loop.quit)
loop.run()
print(json.dumps(told))
