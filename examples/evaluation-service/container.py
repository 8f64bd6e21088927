"""A container: a task that an evaluation service asks for rollouts."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()

SUMS = [(1, 1), (2, 3), (5, 8), (13, 21)]


class Rollout(BaseModel):
    """What the service asks: one attempt at one example, with a prompt."""

    seed: int
    prompt: str


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/task_info")
def task_info() -> dict[str, int]:
    return {"examples": len(SUMS)}


@app.post("/rollout")
def rollout(asked: Rollout) -> dict[str, float]:
    """Try an example. A real container would ask a model here."""
    if asked.seed >= len(SUMS):
        raise HTTPException(422, f"there is no example {asked.seed}")
    a, b = SUMS[asked.seed]
    answer = a + b if "add" in asked.prompt else a * b
    return {"reward": float(answer == a + b)}
