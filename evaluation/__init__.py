"""Score language models: metrics, likelihoods, greedy answers, forgetting, and confidence intervals.

Independent of `lorasweep`, which nothing here imports. `metrics`, `text_scores`, `statistics` and `forgetting` import
quickly; `scoring`, `choices` and `generate` need torch; `modules` needs evaluate and datasets (about 5 s).
"""
