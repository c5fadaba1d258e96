def test_x(evaluation_backbone, evaluation_weights, tiny_protocol, tmp_path):
    import json
    import time

    from dti_engine.evaluation.report import report
    from dti_engine.evaluation.study import Study
    from dti_engine.miniature.scorer import load_scorer

    s = load_scorer(evaluation_weights / "scorer.safetensors")
    t = time.process_time()
    r = Study(
        evaluation_backbone, s, tiny_protocol, tmp_path / "a", weights_sha256="x", on_progress=print
    ).run()
    print(time.process_time() - t)
    print(report(r, command="dti evaluate"))
    json.dumps(r.document())
    import shutil

    shutil.rmtree("/tmp/tinyeval", ignore_errors=True)
    shutil.copytree(tmp_path / "a", "/tmp/tinyeval")
    t = time.process_time()
    r = Study(
        evaluation_backbone, s, tiny_protocol, tmp_path / "a", weights_sha256="x", on_progress=print
    ).run()
    print(time.process_time() - t)
