# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
NAME ?= demo
# Where this Python already has torch with CUDA, the environment is laid over it, so that the demo uses it.
OVER := $(shell $(PYTHON) -c "import torch; print('--system-site-packages' if torch.cuda.is_available() else '')" 2>/dev/null)
# More overrides for the demo's steps, e.g. make demo NAME=long TRAIN=budget.images=20000
SYNTHESIZE ?=
TRAIN ?=
# Of `make test`: processes side by side.
WORKERS ?= 2
# Of `make ablations`: what is left out, the seeds, and more overrides of every run, e.g. TRAIN=budget.images=800
ABLATIONS ?= none,no_codebook,no_retrieval,whole_body_retrieval,no_pose_refinement,no_skinning_offsets,no_kl_density,no_mask_loss,planes_64,planes_64_128_256,planes_time_25,planes_time_100
SEEDS ?= 0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo ablations test golden install lint bench doctor clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: install ## make a capture of a dancing person, train an avatar, evaluate it, move it (outputs/demo)
	$(BIN)/r3avatar synthesize $(SYNTHESIZE)
	$(BIN)/r3avatar train experiment=demo name=$(NAME) overwrite=true $(TRAIN)
	$(BIN)/r3avatar animate run=outputs/$(NAME)
	@$(BIN)/python -m r3avatar.evaluation.summary outputs/$(NAME)

ablations: install ## train the demo with each part left out, and compare (outputs/ablations/comparison)
	test -d outputs/captures/demo || $(BIN)/r3avatar synthesize $(SYNTHESIZE)
	$(BIN)/r3avatar train -m experiment=demo avatar=r3 optimizer.planes=3e-3 ablation=$(ABLATIONS) seed=$(SEEDS) name=ablations $(TRAIN); failed=$$?; \
	$(BIN)/r3avatar compare run=outputs/ablations by=ablation out=outputs/ablations/comparison && exit $$failed

test: install ## run the tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

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
