"""Draws the clock: raw grey pictures of 320x180 at 25 a second to standard output, each with the milliseconds of its making in 16 blocks of
20 pixels, the least bit first; and a tone, 48 kHz mono as s16le, to the pipe that is named. What page.js reads latency from. To publish:

mkfifo tone; python3 clock.py tone | ffmpeg -fflags nobuffer -probesize 32 -f rawvideo -pix_fmt gray -s 320x180 -r 25 -i - \
  -fflags nobuffer -probesize 32 -f s16le -ar 48000 -ac 1 -i tone -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -pix_fmt yuv420p \
  -c:a aac -f flv rtmp://127.0.0.1:8450/live/a
"""

import array
import math
import sys
import threading
import time

WIDTH, HEIGHT = 320, 180
BEGUN = time.time()


def pace(step_s, make):
    """Calls make(0), make(1), .. at their times."""
    index = 0
    while True:
        wait = BEGUN + index * step_s - time.time()
        if wait > 0:
            time.sleep(wait)
        make(index)
        index += 1


def picture(_):
    now = int(time.time() * 1000) & 0xFFFF
    row = b"".join((b"\xff" if now >> bit & 1 else b"\x00") * (WIDTH // 16) for bit in range(16))
    sys.stdout.buffer.write(row * HEIGHT)
    sys.stdout.buffer.flush()


def sound(path):
    with open(path, "wb", buffering=0) as out:
        def tone(index):
            samples = (int(8000 * math.sin(2 * math.pi * 440 * (index * 480 + n) / 48000)) for n in range(480))
            out.write(array.array("h", samples).tobytes())
        pace(0.01, tone)


threading.Thread(target=sound, args=[sys.argv[1]], daemon=True).start()
pace(0.04, picture)
