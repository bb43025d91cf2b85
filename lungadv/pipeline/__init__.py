"""The pipeline: settings and runs, the graph of stages, notebooks run by papermill, results accepted and shown.

`Snakefile` orders the steps; each is `python -m lungadv.pipeline notebook ...` or `... stage ...` (`__main__`). Nothing here imports torch
when it is imported: these modules start every notebook.
"""
