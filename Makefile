# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
NAME ?= demo
# Where this Python already has torch with CUDA, the environment is laid over it, so that the demo uses it.
OVER := $(shell $(PYTHON) -c "import torch; print('--system-site-packages' if torch.cuda.is_available() else '')" 2>/dev/null)
# More overrides for the demo's steps, e.g. make demo NAME=long TRAIN=budget.images=20000
SYNTHESIZE ?=
TRAIN ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test golden install lint bench doctor clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: install ## make a capture of a dancing person, train an avatar, evaluate it, move it (outputs/demo)
	$(BIN)/r3avatar synthesize $(SYNTHESIZE)
	$(BIN)/r3avatar train experiment=demo name=$(NAME) overwrite=true $(TRAIN)
	$(BIN)/r3avatar animate run=outputs/$(NAME)
	@$(BIN)/python -m r3avatar.evaluation.summary outputs/$(NAME)

test: install ## run the tests
	$(BIN)/python -m pytest -q

golden: install ## the losses of 50 steps against the stored ones; REFRESH=1 stores the present ones
	R3AVATAR_GOLDEN=$(if $(REFRESH),refresh) $(BIN)/python -m pytest -q tests/training/test_golden.py

install: $(STAMP) ## make the virtual environment in .venv

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(OVER) $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

lint: install ## check the style
	$(BIN)/ruff check .

bench: install ## time the demo, its memory, and the rasterizers
	$(BIN)/python tools/bench_demo.py
	$(BIN)/python tools/bench_rasterizer.py

doctor: install ## what works on this machine
	$(BIN)/r3avatar doctor

clean: ## remove the environment; outputs/ stays
	rm -rf $(VENV)
