"""No process fails by itself, and nothing is found damaged."""

from chaos.processes.history import Evidence


def processes_failed(evidence: Evidence) -> list[str]:
    """Those that ended otherwise than by our hand, by poison, or because they were to."""
    killed = {line["of"] for line in evidence.said("killed")}
    ending = {line["of"] for line in evidence.said("terminated")}
    poisoned = {line.pid for line in evidence.said("poison")}
    done = {line.pid for line in evidence.said("done")}
    found: list[str] = []
    for line in evidence.said("gone"):
        pid, code = line["of"], line["code"]
        if code == -9:
            right = pid in killed | poisoned
        elif code == -15:
            right = pid in ending  # It had not come to where it hears the signal.
        else:
            right = code == 0 and pid in ending | done
        if not right:
            found.append(f"{line['name']} ended with {code} by itself: see its .err")
    for line in evidence.said("passed"):
        found += [f"job {job} is damaged: {why}" for job, why in line["damaged"].items()]
    return found
