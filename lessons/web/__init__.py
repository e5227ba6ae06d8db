"""The site: lessons as they run, figures and the reference, as pages that need no network.

``python -m lessons.web`` writes Sphinx's sources (`sources`, `gallery`, `reference`), builds them
(`conf.py`), with formulas that the browser draws by itself (`maths`) and indices in text (`prose`),
and follows every link (`links`).
"""
