"""Stands for the hosted evaluation service. It knows the container by URL and token alone."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx


def evaluate(container_url: str, headers: Mapping[str, str], prompt: str) -> dict[str, float]:
    """Return the mean reward of a prompt over all examples of a container's task."""
    with httpx.Client(base_url=container_url, headers=dict(headers)) as container:
        container.get("/health").raise_for_status()
        examples = container.get("/task_info").json()["examples"]

        def reward(seed: int) -> float:
            answer = container.post("/rollout", json={"seed": seed, "prompt": prompt})
            answer.raise_for_status()
            return answer.json()["reward"]

        with ThreadPoolExecutor(8) as pool:
            rewards = list(pool.map(reward, range(examples)))
    return {"score": sum(rewards) / examples, "rollouts": examples}
