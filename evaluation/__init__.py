"""Score language models: metrics, likelihoods, greedy answers, forgetting, and how sure each number is.

Stands alone: nothing here imports `lorasweep`. `metrics`, `text_scores`, `statistics` and `forgetting` are cheap to
import; `scoring`, `choices` and `generate` need torch; `modules` needs evaluate and datasets (about 5 s).
"""
