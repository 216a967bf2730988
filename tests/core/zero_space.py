"""A ZeroGPU Space without its GPU: spaces' real decorator and forked workers, a model on the CPU; tells JSON lines.

Run in a process of its own, since spaces changes Gradio. Left out is what spaces does to torch, which wants CUDA.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.base_models import POCKET
from core.engine import LocalEngine
from core.gpu import ZeroEngine, lender
from core.machine import Machine
from core.messages import Done, Drawn, Failed, Job, LoraFile, Message, Preview, Progress
from core.request import request_from

KEY = "pocket-sdxl"
NEON = POCKET / "loras" / "pocket-sdxl-neon" / "pocket-sdxl-neon.safetensors"


def job(weight: float = 0.8, **more: Any) -> Job:
    request = request_from({"prompt": "a red circle", "seed": 7, "steps": 6, **more}, KEY)
    sha256 = hashlib.sha256(NEON.read_bytes()).hexdigest()
    return Job(request, (LoraFile("bundled:pocket-sdxl-neon", sha256, NEON, weight, weight),))


class PidEngine(LocalEngine):
    """Tells in which process it drew."""

    def run(self, job: Job, stop: Any) -> Any:
        for message in super().run(job, stop):
            yield replace(message, plan={**message.plan, "pid": os.getpid()}) if isinstance(message, Done) else message


def told(message: Message) -> dict[str, Any]:
    match message:
        case Progress(stage, done, total):
            return {"progress": stage, "done": done, "total": total}
        case Preview():
            return {"preview": True}
        case Drawn():
            return {"drawn": hashlib.sha256(message.raster.data).hexdigest()}
        case Done():
            return {"done": message.plan["pid"], "receipt": message.receipts[0].applied}
        case Failed(error):
            return {"failed": str(error), "kind": type(error).__name__}


def main() -> None:
    import gradio  # noqa: F401 (with torch there)
    import torch

    # To spaces this machine has no torch: it changes only such as were built for CUDA.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from spaces.zero.client import startup_report

    sys.modules["torch"] = torch
    local = PidEngine(Machine("cpu"))
    local.warm_up(KEY)
    engine = ZeroEngine(local, KEY, lender())
    startup_report()
    stop = threading.Event()
    for line in sys.stdin:
        asked = json.loads(line)
        match asked.pop("do"):
            case "draw":
                said = [told(message) for message in engine.run(job(**asked), stop)]
            case "close":
                messages: Any = engine.run(job(**asked), stop)
                said = []
                for message in messages:
                    said.append(told(message))
                    if said[-1].get("done") == 2:
                        break
                messages.close()
            case "cancel":
                said = []
                for message in engine.run(job(**asked), stop):
                    said.append(told(message))
                    if said[-1].get("done") == 2:
                        stop.set()
                stop.clear()
            case "torn":
                torn = Path(asked["path"])
                files = (replace(job().loras[0], path=torn, sha256="0" * 64),)
                said = [told(message) for message in engine.run(replace(job(), loras=files), stop)]
            case _:
                said = [{"mine": os.getpid(), "other": engine.availability("sdxl")}]
        sys.stdout.write(f"SAID {json.dumps(said)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
