#!/usr/bin/env bash
# Makes the clip that `culvert camera` and `culvert demo` loop. README.md beside this file says what must hold of it.
# Needs an ffmpeg of at least 7.1 (Opus and H.265 in FLV) with drawtext, libx264, libx265 and libopus, and the DejaVu fonts:
#   pip install imageio-ffmpeg
#   FFMPEG=$(python3 -c 'import imageio_ffmpeg;print(imageio_ffmpeg.get_ffmpeg_exe())') assets/clip/make.sh
set -euo pipefail
cd "$(dirname "$0")"

FFMPEG=${FFMPEG:-ffmpeg}
FONT=${FONT:-/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

ff() { "$FFMPEG" -hide_banner -nostdin -v error -y "$@"; }
# No encoder names, no dates, no end-of-sequence tag: the file is read again from its start.
FLV=(-fflags +bitexact -flags +bitexact -map_metadata -1 -flvflags no_sequence_end -f flv)

# Colour bars, a clock, a ball on a circle of 8 s, a bar that grows over each second, and a white lamp for the first two
# frames of each second, which is when the tick sounds. The picture after the last is the first again.
picture="smptehdbars=s=640x360:r=25,format=yuv420p[bars];
color=white:s=40x40:r=25,format=yuva420p,geq=lum='235-60*hypot(X-14,Y-14)/20':cb=128:cr=128:a='255*lt(hypot(X-20,Y-20),19)'[ball];
color=yellow:s=640x8:r=25,format=yuv420p[bar];
[bars]drawbox=x=140:y=140:w=360:h=80:color=black@1:t=fill,
drawtext=fontfile=$FONT:fontsize=56:fontcolor=white:x=170:y=156:text='%{eif\:floor(t+0.001)\:d\:2}.%{eif\:mod(n\,25)*4\:d\:2} s',
drawtext=fontfile=$FONT:fontsize=24:fontcolor=white:box=1:boxcolor=black:boxborderw=8:x=20:y=20:text='culvert test clip',
drawtext=fontfile=$FONT:fontsize=24:fontcolor=white:box=1:boxcolor=black:boxborderw=8:x=500:y=20:text='%{eif\:n\:d\:3}/200',
drawbox=x=440:y=160:w=40:h=40:color=white:t=fill:enable='lt(mod(n\,25)\,2)'[face];
[face][ball]overlay=x='300+230*sin(2*PI*n/200)':y='160-130*cos(2*PI*n/200)':shortest=1[moving];
[moving][bar]overlay=x='-640+640*mod(n\,25)/25':y=352:shortest=1[v]"
ff -filter_complex "$picture" -map '[v]' -frames:v 200 -c:v ffv1 "$scratch/picture.mkv"

ff -i "$scratch/picture.mkv" -an -c:v libx264 -threads 1 -preset slow -profile:v main -pix_fmt yuv420p -bf 0 \
    -g 25 -keyint_min 25 -sc_threshold 0 -crf 11 -maxrate 400k -bufsize 400k \
    -bsf:v filter_units=remove_types=6 "${FLV[@]}" h264.flv
ff -i "$scratch/picture.mkv" -an -c:v libx265 -preset slow -pix_fmt yuv420p -crf 20 -maxrate 400k -bufsize 400k \
    -x265-params bframes=0:keyint=25:min-keyint=25:open-gop=0:scenecut=0:info=0:pools=1:frame-threads=1:log-level=error \
    "${FLV[@]}" h265.flv

# A tick of 60 ms at each second, higher at the first of the eight, over a soft hum that is periodic in 8 s.
sound() { # sample rate, seconds
    echo "aevalsrc=exprs='0.02*sin(2*PI*110*t)+0.25*exp(-60*mod(t,1))*sin(2*PI*if(lt(mod(t,8),1),1320,880)*mod(t,1))':s=$1:d=$2"
}
# A codec with memory is given the sound three times over, and the second time is kept: so its first packet continues
# its last. An encoder of AAC puts one packet of silence in front, hence 376.
cut() { # first packet, packets, samples per packet; times in milliseconds, as FLV has them
    echo "noise=drop='not(between(n\,$1\,$(($1 + $2 - 1))))',setts=ts='round((N-$1)*$3/48)'"
}
ff -f lavfi -i "$(sound 48000 25)" -ac 2 -c:a aac -b:a 48k -f matroska "$scratch/aac.mkv"
ff -f lavfi -i "$(sound 48000 25)" -ac 2 -c:a libopus -b:a 32k -vbr constrained -frame_duration 20 "$scratch/opus.mkv"
ff -i "$scratch/aac.mkv" -vn -c copy -bsf:a "$(cut 376 375 1024)" "${FLV[@]}" aac.flv
ff -i "$scratch/opus.mkv" -vn -c copy -bsf:a "$(cut 400 400 960)" "${FLV[@]}" opus.flv
ff -f lavfi -i "$(sound 8000 8)" -ac 1 -af asetnsamples=n=160:p=0 -c:a pcm_alaw "${FLV[@]}" pcma.flv
ls -l ./*.flv
