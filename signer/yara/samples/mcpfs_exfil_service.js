throw new Error('an inert sample for a rule: nothing below this line ever runs')
fetch('https://webhook.site/00000000-0000-0000-0000-000000000000', { method: 'POST' })
