"""HiFi4G as downloaded, with SMPL fits, to the layout that capture=hifi4g reads:

python tools/convert_hifi4g.py DOWNLOAD/4K_Actor1_Greeting FITS DIR/4K_Actor1_Greeting
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from r3avatar.captures.hifi4g_public import convert_hifi4g


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("download", type=Path, help="holds image_white/<frame>/<view>.png and transforms.json")
    parser.add_argument("fits", type=Path, help="holds <frame>.json, EasyMocap's SMPL fits: metres, in the same world")
    parser.add_argument("out", type=Path, help="the folder to write: capture.root/capture.subject")
    parser.add_argument("--metres", type=float, default=1.0, help="length of a unit of transforms.json")
    parser.add_argument("--copy", action="store_true", help="copy the images (default: hard links)")
    given = parser.parse_args()
    try:
        done = convert_hifi4g(given.download, given.fits, given.out, metres=given.metres, copy=given.copy)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    print(f"{given.out}: {done.cameras} cameras, {done.frames} frames, {done.images} images")
    if done.missing:
        print(f"the download lacks {len(done.missing)} images: {', '.join(done.missing[:20])}")


if __name__ == "__main__":
    main()
