"""README.md of exported users and items."""

from string import Template

__all__ = ["README", "SCORER", "TOP_SCORER", "VECTORS"]

README = Template("""# $encoder, trained: $users users and $items items

From `$checkpoint`, after epoch $epoch. Users and items have numbers, from 0; `names.json` has their names in this
order, `users` and `items`, and, where they are known, the items' `labels`. A score is the cosine of a user and an item:
the higher, the better. What a user has already is not left out.

$uses
Compared with the original encoder after writing, on the scores of $compared:

$errors
""")

VECTORS = Template("""## vectors.safetensors

`users` ($users, $features) and `items` ($items, $features), of length 1: dot products are the scores. After
`pip install numpy safetensors`:

```python
import json

import numpy as np
from safetensors.numpy import load_file

vectors, names = load_file("vectors.safetensors"), json.load(open("names.json", encoding="utf-8"))
scores = vectors["items"] @ vectors["users"][0]
print([names["items"][i] for i in np.argsort(-scores)[:10]])  # for the first user
```

Somebody new who has some items is the mean of these items' vectors.
""")

SCORER = Template("""## scorer.onnx

Users' numbers (B,) int64, a batch of any size -> `scores` (B, $items) of all items:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("scorer.onnx")
(scores,) = session.run(None, {"users": np.array([0, 1])})  # float32
```
""")

TOP_SCORER = Template("""## scorer.onnx

Users' numbers (B,) int64, a batch of any size -> the best $k items, best first: `scores` and
numbers `items`, (B, $k) each:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("scorer.onnx")
scores, items = session.run(None, {"users": np.array([0, 1])})
```
""")
