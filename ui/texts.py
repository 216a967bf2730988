"""The words of the Create tab in one place, by where they stand."""

from __future__ import annotations

# Over the prompt
EXAMPLES = "Example blends"
OPEN_A_RECIPE = "Open a recipe"
DROP_A_PICTURE = "Drop a picture anywhere, or"
CHOOSE_ONE = "choose one"
PASTE_A_RECIPE = "Or paste a link, a recipe as JSON, or A1111 parameters"
OPEN = "Open"

# The prompt
PROMPT = "Prompt"
PROMPT_HINT = "What to draw; Ctrl+Enter generates, Esc cancels"
PROMPT_FORMS = "{red|blue} draws one of them, [[red, blue]] a picture of each"
GENERATE = "Generate"
CANCEL = "Cancel"
CANCELLING = "Cancelling …"

# The model
MODEL = "Model"
NOT_HERE = "not on this machine"
A_PICTURE = "about {} a picture on this machine"
ALL_OF_THEM = ", {} in {}"
OF_QUOTA = "About {} s of your GPU quota."

# The folds, from the most used to the least
SETTINGS = "Size, steps, seed, pictures"
WORDS = "Words it understands"
FURTHER = "Second pass, and faster ways"
OVER = "Over a picture"
SAVE_BLEND = "Save this blend as one LoRA"
KEPT = "What is kept"
ABOUT = "Models, and how to get real ones"
RECIPE = "Recipe"
RECIPE_AS_JSON = "Recipe as JSON"

# The settings
NEGATIVE = "Negative prompt"
NEGATIVE_HINT = "What to keep out (optional)"
WIDTH, HEIGHT, STEPS, GUIDANCE = "Width", "Height", "Steps", "Guidance"
SAMPLER = "Sampler"
SEED, SEED_HINT = "Seed", "-1 is a new one each time"
RANDOM, LAST = "⚄ Random", "↺ Last"
PICTURES = "Pictures"
KEEP_IN_HISTORY = "Keep in History"
KEEP_IN_DATASET = " and in the dataset {}"
CONSENTS = {"none": "Nothing", "recipe": "Recipe only", "picture": "Picture"}

# The picture
NO_PICTURE = "Your picture will be woven here."
NO_PICTURE_STATUS = "Say what to draw, then press Generate."
NO_PICTURE_EXAMPLES = "Begin with one of these, or with words of your own."
NO_RECIPE = "Press Generate: the recipe of your picture will stand here, with all that makes it again."
CANCELLED = "Cancelled."
NOTHING_DRAWN = "Nothing was drawn."
TIME_LEFT = "about {} left"
NO_COMPARISON = "Press Compare: the pictures will stand here side by side, each with its recipe."
